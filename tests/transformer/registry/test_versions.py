"""The model registry on a real MLflow server: versions, aliases, decisions, and processes that compete."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from mlflow import MlflowClient

from tests.support import commands
from tests.support.messages import assert_names
from transformer.config import Config, load_config
from transformer.errors import ServiceError, UnansweredError, UserError
from transformer.files import file_digest
from transformer.registry.lock import HOLDER, NO_SOURCE, TOKEN, locked
from transformer.registry.logged import log_trained, trained_files_of
from transformer.registry.register import describe_version, register
from transformer.registry.versions import (
    PREVIOUS_CHAMPION,
    TRAINED,
    ChampionChangedError,
    ModelVersions,
    Registered,
    challenger,
    champion,
    decline,
    promote,
    rollback,
)
from transformer.tracking.logged_models import Scored, find_model
from transformer.tracking.run_log import RunLog
from transformer.tracking.runs import open_run

slow = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[3]
# If an alias is set and read back instead of the lock, three processes break the rule in a third of the rounds.
PROMOTERS = int(os.environ.get("PROMOTERS", "3"))
PROMOTION_ROUNDS = int(os.environ.get("PROMOTION_ROUNDS", "5"))
NO_EVENTS = pl.DataFrame()
TELL = {"why": "MAE 60 s against 70 s", "by": "anna"}

# A process that answers each line `{"version": …, "instead_of": …}` with the result of that promotion.
# prose: allow length – a program
PROMOTER = """
import json, sys
from transformer.config import load_config
from transformer.errors import ServiceError
from transformer.registry.versions import promote
config = load_config("local", sys.argv[1:])
print("ready", flush=True)
for line in sys.stdin:
    try:
        promote(config, **json.loads(line), why="better", by="a gate")
        print("promoted", flush=True)
    except ServiceError as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.fixture
def overrides(mlflow_server: str) -> list[str]:
    name = f"trains-{uuid.uuid4().hex[:8]}"
    return [f"training.mlflow.tracking_uri={mlflow_server}", f"evaluation.registry.model_name={name}"]


@pytest.fixture
def config(overrides: list[str]) -> Config:
    return load_config("local", overrides)


@pytest.fixture
def client(mlflow_server: str) -> MlflowClient:
    return MlflowClient(tracking_uri=mlflow_server)


@pytest.fixture(autouse=True)
def _models_of_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The content of a version does not matter here; `test_pyfunc` registers a trained model."""

    def write_model(folder: Path, target: Path, example: pl.DataFrame, tables: Path) -> None:
        kept = target / TRAINED
        kept.mkdir(parents=True)
        (target / "MLmodel").touch()
        (kept / "weights").write_text((folder / "weights").read_text())

    stand_in = SimpleNamespace(write_model=write_model, content_of=lambda folder: file_digest(folder / "weights"))
    monkeypatch.setitem(sys.modules, "transformer.registry.package", stand_in)


def train(folder: Path, weights: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text(weights)
    return folder


@pytest.fixture
def versions(config: Config, tmp_path: Path) -> list[Registered]:
    """Three registered versions, each from its own run."""
    return [
        register(RunLog(config, open_run(config, env="local")), train(tmp_path, f"w{n}"), NO_EVENTS) for n in range(3)
    ]


def refusal(act: Any, kind: type[Exception] = UserError) -> str:
    with pytest.raises(kind) as caught:
        act()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def previous_champion(config: Config) -> Registered | None:
    with ModelVersions.open(config) as models:
        version = models.aliases().get(PREVIOUS_CHAMPION)
        return None if version is None else models.version(version)


def numbers(config: Config) -> tuple[int | None, int | None, int | None]:
    """Versions of champion, previous champion and challenger."""
    found = (champion(config), previous_champion(config), challenger(config))
    return tuple(None if entry is None else entry.version for entry in found)  # type: ignore[return-value]


def tickets(config: Config, client: MlflowClient) -> list[Any]:
    return list(client.search_model_versions(f"name = '{config.evaluation.registry.model_name}.queue'"))


# --- registering -----------------------------------------------------------------------------------------------------
@slow
def test_a_trained_model_becomes_a_version_and_the_challenger(
    config: Config, client: MlflowClient, tmp_path: Path
) -> None:
    assert numbers(config) == (None, None, None)
    run = RunLog(config, open_run(config, env="local"))
    first = register(run, train(tmp_path, "w"), NO_EVENTS)
    assert (first.version, first.run_id) == (1, run.run_id)
    assert numbers(config) == (None, None, 1)
    stored = client.get_model_version(config.evaluation.registry.model_name, "1")
    model = client.get_logged_model(stored.tags["model_id"])
    assert (stored.source, model.source_run_id, model.status) == (model.artifact_location, run.run_id, "READY")
    assert model.tags["mlflow.modelVersions"]  # the page of the model names its version
    assert first.model_id == model.model_id
    assert trained_files_of(run, first, tmp_path / "back").joinpath("weights").read_text() == "w"
    assert tickets(config, client) == []


@slow
def test_a_version_of_an_earlier_release_has_its_files_in_its_run(
    config: Config, client: MlflowClient, tmp_path: Path
) -> None:
    run = RunLog(config, open_run(config, env="local"))
    trained = train(tmp_path / "model" / "abc" / TRAINED, "w")
    run.log_artifacts(tmp_path / "model", "model")
    name = config.evaluation.registry.model_name
    client.create_registered_model(name)
    source = f"{client.get_run(run.run_id).info.artifact_uri}/model/abc"
    client.create_model_version(name, source, run.run_id, tags={"content": "abc"})
    with ModelVersions.open(config) as models:
        earlier = models.version(1)
    fetched = trained_files_of(run, earlier, tmp_path / "back")
    assert fetched.joinpath("weights").read_bytes() == trained.joinpath("weights").read_bytes()


@slow
def test_the_logged_model_of_a_training_is_the_one_that_is_registered(
    config: Config, client: MlflowClient, tmp_path: Path
) -> None:
    run = RunLog(config, open_run(config, env="local"))
    model_id = log_trained(run, train(tmp_path, "w"), NO_EVENTS)
    assert log_trained(run, tmp_path, NO_EVENTS) == model_id  # a retried training logs nothing new
    assert [output.model_id for output in client.get_run(run.run_id).outputs.model_outputs] == [model_id]
    model = client.get_logged_model(model_id)
    assert (model.name, model.status) == (config.evaluation.registry.model_name, "READY")
    assert model.params["model.n_layers"] == str(config.model.n_layers)
    run_tags = client.get_run(run.run_id).data.tags
    for name in ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit"):
        assert model.tags[name] == run_tags[name]
    assert f'mlflow.pyfunc.load_model("models:/{model_id}")' in model.tags["mlflow.note.content"]
    assert register(run, tmp_path, NO_EVENTS).model_id == model_id
    other = RunLog(config, open_run(config, env="local"))
    assert log_trained(other, tmp_path, NO_EVENTS) != model_id  # another run's model, even if it is the same


@slow
def test_a_model_that_was_being_logged_is_completed(config: Config, client: MlflowClient, tmp_path: Path) -> None:
    run = RunLog(config, open_run(config, env="local"))
    folder = train(tmp_path, "w")
    experiment = client.get_run(run.run_id).info.experiment_id
    content = file_digest(folder / "weights")
    begun = client.create_logged_model(experiment, "half", run.run_id, tags={"content": content})  # then killed
    assert find_model(config, run.run_id, content) == ""
    assert log_trained(run, folder, NO_EVENTS) == begun.model_id == find_model(config, run.run_id, content)


@slow
def test_metrics_belong_to_the_model_and_to_their_dataset(config: Config, client: MlflowClient, tmp_path: Path) -> None:
    run = RunLog(config, open_run(config, env="local"))
    model_id = log_trained(run, train(tmp_path, "w"), NO_EVENTS)
    run.log_metrics({"test/mae_s": 61.5, "test/skill": 0.25}, scored=Scored(model_id, "ride 2025-01-15", "0123"))
    run.log_metrics({"test/n": 100})
    assert client.get_run(run.run_id).data.metrics == {"test/mae_s": 61.5, "test/skill": 0.25, "test/n": 100}
    found = {(metric.key, metric.value, metric.dataset_name) for metric in client.get_logged_model(model_id).metrics}
    assert found == {("test/mae_s", 61.5, "ride 2025-01-15"), ("test/skill", 0.25, "ride 2025-01-15")}
    window = run.open_child(config, "window a", {}, {"window": "a"}, inherits=())
    for _ in range(2):
        window.log_model_input(model_id)
    assert [used.model_id for used in client.get_run(window.run_id).inputs.model_inputs] == [model_id]


@slow
def test_the_model_and_its_versions_are_described(config: Config, client: MlflowClient, tmp_path: Path) -> None:
    name = config.evaluation.registry.model_name
    client.create_registered_model(name)  # by an earlier release, which described none
    run = RunLog(config, open_run(config, env="local"))
    run.set_tags({"data_licences": "RIDE Silver: CC BY 4.0"})
    version = str(register(run, train(tmp_path, "w"), NO_EVENTS).version)
    described = client.get_registered_model(name).description
    assert f'mlflow.pyfunc.load_model("models:/{name}@champion")' in described
    client.update_registered_model(name, "Ours.")

    def card() -> str:
        return str(client.get_model_version(name, version).description)

    assert "RIDE Silver: CC BY 4.0" in card()
    client.update_model_version(name, version, "Trained by MLflow run 123.\n\nData:")  # as an earlier release wrote it
    run.log_metrics({"test/mae_s": 61.5, "test/translation_mae_s": 80.0, "test/skill": 0.25})
    describe_version(run)
    assert card().startswith("Trained by")  # the run does not name its version yet
    run.set_tags({"model_version": version})
    describe_version(run)
    assert card().startswith("Test MAE 61.5 s, translation 80.0 s, skill +25.0%.\n\n| |")
    assert "Trained by" not in card()
    client.update_model_version(name, version, f"{card()}\n\nUsed in the north.")
    describe_version(run)
    assert card().endswith("Used in the north.")
    register(RunLog(config, open_run(config, env="local")), train(tmp_path, "v"), NO_EVENTS)
    assert client.get_registered_model(name).description == "Ours."
    client.delete_model_version(name, version)
    describe_version(run)  # a person has deleted the version; the evaluation of its run goes on


@slow
def test_a_retried_stage_registers_nothing_new_and_a_resumed_training_does(config: Config, tmp_path: Path) -> None:
    run = RunLog(config, open_run(config, env="local"))
    first = register(run, train(tmp_path, "epoch 5"), NO_EVENTS)
    assert register(run, tmp_path, NO_EVENTS) == first
    second = register(run, train(tmp_path, "epoch 9"), NO_EVENTS)
    assert second.version == 2
    assert second.model_id != first.model_id
    assert register(run, train(tmp_path, "epoch 5"), NO_EVENTS) == first
    assert numbers(config) == (None, None, 2)


@slow
def test_a_retry_gives_the_alias_that_the_first_attempt_could_not(
    config: Config, client: MlflowClient, tmp_path: Path
) -> None:
    run, name = RunLog(config, open_run(config, env="local")), config.evaluation.registry.model_name
    register(run, train(tmp_path, "w"), NO_EVENTS)
    client.delete_registered_model_alias(name, "challenger")
    register(run, tmp_path, NO_EVENTS)
    assert numbers(config) == (None, None, 1)
    promote(config, 1, **TELL)
    register(run, tmp_path, NO_EVENTS)
    assert numbers(config) == (1, None, None)


# --- deciding --------------------------------------------------------------------------------------------------------
@slow
def test_promoting_keeps_the_former_champion_and_says_why(config: Config, versions: list[Registered]) -> None:
    promote(config, 1, **TELL)
    assert numbers(config) == (1, None, 3)
    promoted = promote(config, "challenger", why="better", by="bert")
    assert numbers(config) == (3, 1, None)
    assert promoted == champion(config)
    assert promoted.run_id == versions[2].run_id
    assert {key: promoted.tags[key] for key in ("decision", "decision_reason", "decision_by")} == {
        "decision": "promoted", "decision_reason": "better", "decision_by": "bert",
    }  # fmt: skip
    assert promoted.tags["decision_at"][:2] == "20"
    former = previous_champion(config)
    assert former is not None
    assert (former.tags["decision"], former.tags["decision_reason"]) == ("replaced", "by version 3: better")


@slow
def test_promoting_again_changes_nothing(config: Config, client: MlflowClient, versions: list[Registered]) -> None:
    promote(config, 1, **TELL)
    promote(config, 2, instead_of=1, **TELL)
    assert promote(config, 2, instead_of=1, why="again", by="bert").tags["decision_by"] == "anna"
    assert numbers(config) == (2, 1, 3)
    # A promotion stopped between alias and tags: a retry completes the promotion.
    client.set_model_version_tag(config.evaluation.registry.model_name, "2", "decision", "declined")
    assert promote(config, 2, instead_of=1, **TELL).tags["decision"] == "promoted"
    assert numbers(config) == (2, 1, 3)


@slow
def test_a_champion_that_was_not_compared_with_stays(config: Config, versions: list[Registered]) -> None:
    promote(config, 1, instead_of=0, **TELL)
    message = refusal(lambda: promote(config, 2, instead_of=0, **TELL), ChampionChangedError)
    assert_names(message, "now version 1", "version 2 was compared with none; ", "compare them again")
    promote(config, 3, instead_of=1, **TELL)
    message = refusal(lambda: promote(config, 2, instead_of=1, **TELL), ChampionChangedError)
    assert_names(message, "now version 3", "version 2 was compared with version 1; ", "compare them again")
    assert numbers(config) == (3, 1, None)


@slow
def test_declining_says_why_and_can_be_overruled(config: Config, versions: list[Registered]) -> None:
    promote(config, 1, **TELL)
    declined = decline(config, "challenger", why="MAE 71 s against 70 s", by="the gate")
    assert (declined.version, declined.tags["decision"]) == (3, "declined")
    assert declined.tags["decision_reason"] == "MAE 71 s against 70 s"
    assert numbers(config) == (1, None, 3)
    assert decline(config, 1, **TELL).tags["decision"] == "promoted"  # a champion is not declined
    promote(config, 3, **TELL)
    assert numbers(config) == (3, 1, None)


@slow
def test_rolling_back_and_forth(config: Config, versions: list[Registered]) -> None:
    name = config.evaluation.registry.model_name
    missing = (name, "no previous champion", "`promote --version N`")
    assert_names(refusal(lambda: rollback(config, **TELL)), *missing)
    promote(config, 1, **TELL)
    assert_names(refusal(lambda: rollback(config, **TELL)), *missing)
    promote(config, 2, **TELL)
    back = rollback(config, why="alarms", by="bert")
    assert numbers(config) == (1, 2, 3)
    assert back.tags["decision_reason"] == "rolled back from version 2: alarms"
    away = previous_champion(config)
    assert away is not None
    assert (away.tags["decision"], away.tags["decision_reason"]) == ("rolled back", "to version 1: alarms")
    rollback(config, **TELL)
    assert numbers(config) == (2, 1, 3)


@slow
def test_a_version_that_is_not_there_is_one_line(config: Config, versions: list[Registered]) -> None:
    name = config.evaluation.registry.model_name
    for version in (9, "9", "champion", "x"):
        message = refusal(lambda version=version: promote(config, version, **TELL))
        assert_names(message, f"model {name} ", f"no version {version!r}; ", "MLflow")
    assert numbers(config) == (None, None, 3)


@slow
@pytest.mark.parametrize("named_run", [True, False], ids=["MLflow's button", "the client without a run"])
def test_a_version_of_another_program_is_one_line(
    config: Config, client: MlflowClient, versions: list[Registered], named_run: bool
) -> None:
    name = config.evaluation.registry.model_name
    run_id = open_run(config, env="local") if named_run else None
    client.create_model_version(name, f"runs:/{run_id}/model" if run_id else "s3://bucket/model", run_id)
    expected = ("version 4", "not registered by this program", "`register-model --run-id RUN`", "`promote --version N`")
    assert_names(refusal(lambda: promote(config, 4, **TELL)), f"model {name}", *expected)
    assert numbers(config) == (None, None, 3)
    promote(config, 1, **TELL)
    client.set_registered_model_alias(name, PREVIOUS_CHAMPION, "4")
    assert_names(refusal(lambda: rollback(config, **TELL)), f"model {name}", *expected)
    client.set_registered_model_alias(name, "champion", "4")
    found = champion(config)
    assert found is not None and found.run_id == (run_id or "")
    assert_names(refusal(lambda: found.folder), *expected)
    assert promote(config, 3, **TELL).tags["decision"] == "promoted"  # it may be replaced
    assert numbers(config) == (3, 4, None)


@slow
def test_no_password_reaches_a_tag(config: Config, versions: list[Registered]) -> None:
    promoted = promote(config, 1, why="see http://me:geheim@host/x", by="anna")
    assert promoted.tags["decision_reason"] == "see http://***@host/x"


def test_without_mlflow_there_is_no_registry() -> None:
    config = load_config("local", ["training.mlflow.use_mlflow=false"])
    message = refusal(lambda: champion(config))
    assert_names(message, "training.mlflow.use_mlflow=false", "registry", "true")


@slow
def test_a_server_that_is_away_is_one_line(pauses: list[float]) -> None:
    config = load_config("local", ["training.mlflow.tracking_uri=http://me:geheim@127.0.0.1:9"])
    message = refusal(lambda: rollback(config, **TELL), UnansweredError)
    assert sum(pauses) >= 120
    assert_names(message, "MLflow at http://127.0.0.1:9 did not answer for 12", "training.mlflow.tracking_uri")


# --- several at once -------------------------------------------------------------------------------------------------
@pytest.fixture
def promoters(overrides: list[str], tmp_path: Path) -> Iterator[list[commands.Forked]]:
    """Processes that promote on demand."""
    program = tmp_path / "promoter.py"
    program.write_text(PROMOTER)
    started = [commands.start(str(program), *overrides) for _ in range(PROMOTERS)]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started:
        process.kill()
        process.communicate()


@slow
def test_of_several_gates_that_compared_with_the_same_champion_one_promotes(
    config: Config, client: MlflowClient, tmp_path: Path, promoters: list[commands.Forked]
) -> None:
    run = RunLog(config, open_run(config, env="local"))
    everyone = {register(run, train(tmp_path, f"w{n}"), NO_EVENTS).version for n in range(PROMOTERS + 1)}
    promote(config, 1, **TELL)
    current = 1
    for _ in range(PROMOTION_ROUNDS):
        rivals = sorted(everyone - {current})
        for process, version in zip(promoters, rivals, strict=True):
            process.stdin.write(json.dumps({"version": version, "instead_of": current}) + "\n")
            process.stdin.flush()
        answers = [process.stdout.readline().strip() for process in promoters]
        assert answers.count("promoted") == 1
        winner = rivals[answers.index("promoted")]
        for loser in (answer for answer in answers if answer != "promoted"):
            assert loser.startswith("ChampionChangedError ")
            assert_names(loser, f"now version {winner},", "compare them again")
        assert numbers(config)[:2] == (winner, current)
        with ModelVersions.open(config) as models:
            decisions = {version: models.version(version).tags.get("decision") for version in (winner, current)}
        assert decisions == {winner: "promoted", current: "replaced"}
        current = winner
    assert tickets(config, client) == []


@slow
def test_a_process_that_died_holds_up_others_only_so_long(
    config: Config, overrides: list[str], client: MlflowClient, versions: list[Registered], caplog: Any
) -> None:
    queue = f"{config.evaluation.registry.model_name}.queue"
    client.create_model_version(queue, NO_SOURCE, tags={TOKEN: "dead", HOLDER: "promoting 7: process 1 on mars"})
    hasty = load_config("local", [*overrides, "evaluation.registry.turn_expires_s=2"])
    began = time.monotonic()
    promote(hasty, 2, **TELL)
    assert time.monotonic() - began > 2
    [taking_over] = [line for line in caplog.messages if "taking over" in line]
    assert_names(taking_over, "taking over", " 2 s ", "promoting 7: process 1 on mars")
    assert numbers(config) == (2, None, 3)
    assert tickets(config, client) == []


@slow
def test_a_process_that_lost_the_lock_is_refused(
    config: Config, client: MlflowClient, versions: list[Registered]
) -> None:
    name = config.evaluation.registry.model_name
    with locked(client, name, "something long", expires_s=60) as lock:
        lock.confirm()
        [ticket] = tickets(config, client)
        assert ticket.tags[HOLDER].startswith("something long: process ")
        client.delete_model_version(f"{name}.queue", ticket.version)
        with pytest.raises(ServiceError) as caught:
            lock.confirm()
        assert_names(caught.value, "lost its lock", "model registry", "run it again")
    with locked(client, name, "the next", expires_s=60) as lock:
        lock.confirm()
    assert tickets(config, client) == []


@slow
def test_an_error_releases_the_lock_too(config: Config, client: MlflowClient, versions: list[Registered]) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        locked(client, config.evaluation.registry.model_name, "something", expires_s=60),
    ):
        raise ZeroDivisionError
    assert tickets(config, client) == []
