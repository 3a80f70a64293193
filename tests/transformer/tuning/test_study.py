"""The bookkeeping of a study: its budget, its orphans, its failures. A formula stands in for the trainings."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from tests.support.messages import assert_names
from transformer.config import Config, load_config
from transformer.data.dates import resolve_split
from transformer.errors import ServiceError, Terminated, UserError
from transformer.tracking.run_log import RunLog
from transformer.training.trainer import TrainingResult
from transformer.tuning import worker
from transformer.tuning.database import open_database
from transformer.tuning.study import WarmStart, create_pruner, create_sampler, find_study, progress
from transformer.tuning.trials import superseded
from transformer.tuning.worker import close_ended_runs, run_trials

pytestmark = pytest.mark.slow  # a hundred seconds together

SPACE = [
    {"key": "training.learning_rate", "low": 1e-4, "high": 1e-2, "log": True},
    {"key": "model.n_layers", "low": 1, "high": 4},
]


class Trainings:
    """Stands in for `train`: a formula gives the validation MAE, and some trainings end by an exception."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.warm_starts: list[Path | None] = []
        self.happens: dict[int, BaseException] = {}  # ends the n-th training after its first epoch

    def __call__(self, config, split, statistics, embeddings, run, folder, *, warm_start, callbacks, resumable):
        number = len(self.configs)
        self.configs.append(config)
        self.warm_starts.append(warm_start)
        best = 100 + 20 * abs(math.log10(config.training.learning_rate / 1e-3)) + config.model.n_layers
        for epoch in range(config.training.max_epochs):
            figures = {"val/mae_s": best + config.training.max_epochs - 1 - epoch}
            for callback in callbacks:
                callback.on_train_epoch_end(SimpleNamespace(current_epoch=epoch, callback_metrics=figures), None)
            if number in self.happens:
                raise self.happens[number]
        return TrainingResult(best, 120.0, config.training.max_epochs, 1.0)

    @property
    def values(self) -> list[tuple[float, int]]:
        return [(config.training.learning_rate, config.model.n_layers) for config in self.configs]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    stand_in = Trainings()
    monkeypatch.setattr(worker, "train", stand_in)
    monkeypatch.setattr(worker, "obtain_inputs", lambda config, split: (None, None))
    return stand_in


@pytest.fixture
def configure(small_overrides: list[str], tmp_path: Path):
    """The configuration of a study in its own database, with more overrides on top."""

    def make(*overrides: str, space=SPACE) -> Config:
        own = [f"paths.optuna_db={tmp_path}/studies.db", f"search.space={json.dumps(space)}", "search.n_trials=6"]
        return load_config("local", [*small_overrides, "search.pruner.name=none", *own, *overrides])

    return make


def tune(config: Config, tmp_path: Path, **options):
    split = resolve_split(config.data.split, Path(config.data.local_folder), True, config.data.timezone)
    return run_trials(config, split, RunLog(config, ""), tmp_path / "trials", 0, **options)


def trials_of(config: Config) -> list[optuna.trial.FrozenTrial]:
    with open_database(config, "", lambda *_: None) as database:
        return optuna.load_study(study_name=config.search.study_name, storage=database.storage).trials


def refusal(act) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- studies and runs of other programs -------------------------------------------------------------------------------
def test_a_study_of_another_program_is_not_reported(configure):
    config = configure()
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name=config.search.study_name, storage=storage)
    assert_names(refusal(lambda: find_study(config, storage)), config.search.study_name, "was not made", "study_name")


def test_a_run_that_lost_its_tag_of_a_trial_stays_open(caplog: pytest.LogCaptureFixture):
    study = optuna.create_study()
    study.set_user_attr("study_id", "a")
    run = SimpleNamespace(running=lambda tags: {"run-1": {"study_id": "a"}, "run-2": {"study_id": "a", "trial": "x"}})
    close_ended_runs(study, run)
    assert "MLflow run run-1 has" in caplog.text and "MLflow run run-2 has" in caplog.text


# --- budget ----------------------------------------------------------------------------------------------------------
def test_a_study_reaches_its_number_of_trials_and_no_more(configure, trainings: Trainings, tmp_path: Path):
    found = tune(configure(), tmp_path)
    assert (found.complete, found.counted, len(trainings.configs)) == (6, 6, 6)
    again = tune(configure(), tmp_path)
    assert (again.counted, len(trainings.configs)) == (6, 6)
    more = tune(configure("search.n_trials=9"), tmp_path)
    assert (more.counted, len(trainings.configs)) == (9, 9)
    assert len(set(trainings.values)) == 9
    assert str(more).startswith("9 trials complete, 0 pruned, 0 failed; best 10")


def test_the_first_trial_is_the_configuration_as_it_is(configure, trainings: Trainings, tmp_path: Path):
    tune(configure("search.n_trials=2", "training.learning_rate=0.0007"), tmp_path)
    assert trainings.values[0] == (0.0007, 1)
    first, second = trials_of(configure())
    assert first.user_attrs["defaults"] is True and "defaults" not in second.user_attrs


def test_a_configuration_outside_the_space_is_not_tried(configure, trainings: Trainings, tmp_path: Path, caplog):
    with caplog.at_level("INFO"):
        tune(configure("search.n_trials=2", "training.learning_rate=0.5"), tmp_path)
    assert "search space and is not tried: training.learning_rate=0.5" in caplog.text
    assert all(rate <= 1e-2 for rate, _ in trainings.values)


def test_a_trial_trains_its_values_on_one_device_and_tells_what_came_out(
    configure, trainings: Trainings, tmp_path: Path
):
    weights = WarmStart("0123abcd", tmp_path / "best.ckpt")
    tune(configure("training.devices=4", "search.n_trials=3", space=SPACE[:1]), tmp_path, warm_start=weights)
    assert {config.training.devices for config in trainings.configs} == {"1"}
    assert trainings.warm_starts == [weights.checkpoint] * 3
    for trial, config in zip(trials_of(configure()), trainings.configs, strict=True):
        assert trial.params["training.learning_rate"] == config.training.learning_rate
        assert trial.user_attrs["epochs"] == 3 and trial.user_attrs["val_translation_mae_s"] == 120.0
        assert list(trial.intermediate_values) == [1, 2, 3]


# --- interruptions ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", [Terminated(), KeyboardInterrupt(), ServiceError("MLflow is away"), OSError("disk")])
def test_an_interrupted_study_ends_as_if_it_had_not_been(configure, trainings: Trainings, tmp_path: Path, ending):
    tune(configure("search.study_name=whole"), tmp_path)
    uninterrupted = list(trainings.values)
    trainings.configs.clear()
    trainings.happens = {3: ending}
    with pytest.raises(type(ending)):
        tune(configure(), tmp_path)
    assert [trial.state for trial in trials_of(configure())][3:] == [TrialState.FAIL, TrialState.WAITING]
    found = tune(configure(), tmp_path)
    assert (found.complete, found.counted) == (6, 6)
    assert trainings.values == [*uninterrupted[:4], *uninterrupted[3:]]
    assert superseded(trials_of(configure())) == {3}


def test_a_trial_that_a_killed_worker_left_running_is_run_again(configure, trainings: Trainings, tmp_path: Path):
    tune(configure("search.n_trials=2"), tmp_path)
    with open_database(configure(), "", lambda *_: None) as database:
        study = optuna.load_study(study_name="train-delays", storage=database.storage)
        left = study.ask()
        left.suggest_float("training.learning_rate", 1e-4, 1e-2, log=True)  # killed before the second value
    found = tune(configure(), tmp_path)
    assert (found.complete, found.counted, found.running) == (6, 6, 0)
    assert superseded(trials_of(configure())) == {2}
    assert trainings.values[2][0] == left.params["training.learning_rate"]


def test_a_trial_whose_worker_dies_again_and_again_fails_in_the_end(configure, trainings: Trainings, tmp_path: Path):
    config = configure("search.max_retries=2", "search.n_trials=3")
    trainings.happens = {n: Terminated() for n in (1, 2, 3)}
    for _ in range(3):
        with pytest.raises(Terminated):
            tune(config, tmp_path)
    found = tune(config, tmp_path)
    assert (found.complete, found.failed, found.counted) == (2, 1, 3)
    assert len(trainings.configs) == 5


# --- failures --------------------------------------------------------------------------------------------------------
def test_a_failing_trial_counts_and_does_not_end_the_study(configure, trainings: Trainings, tmp_path: Path, caplog):
    trainings.happens = {1: RuntimeError("not enough memory: you tried to allocate 9 GB\nmore"), 3: UserError("bad")}
    found = tune(configure(), tmp_path)
    assert (found.complete, found.failed, found.counted) == (4, 2, 6)
    reasons = [trial.user_attrs.get("failure") for trial in trials_of(configure())]
    assert reasons == [None, "not enough memory: you tried to allocate 9 GB", None, "bad", None, None]
    assert "trial 3 failed: bad" in caplog.text


def test_a_study_whose_trials_all_fail_says_why_in_one_line(configure, trainings: Trainings, tmp_path: Path):
    trainings.happens = {n: RuntimeError(f"reason {n}") for n in range(6)}
    message = refusal(lambda: tune(configure(), tmp_path))
    assert_names(message, "'train-delays'", "none", "6 failed", "reason 5", "search.study_name")
    assert refusal(lambda: tune(configure(), tmp_path)) == message
    assert len(trainings.configs) == 6


# --- identity --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("overrides", "space", "difference"),
    [
        ([], SPACE[:1], "search.space model.n_layers: 1 … 4 → absent"),
        ([], [SPACE[0], {**SPACE[1], "high": 5}], "search.space model.n_layers: 1 … 4 → 1 … 5"),
        (["training.max_epochs=4"], SPACE, "training.max_epochs: 3 → 4"),
        (["data.snapshot.n_foll=4"], SPACE, "data.snapshot.n_foll: 5 → 4"),
        (
            [f"data.split.{name}=[2025-01-0{day}]" for name, day in (("train", 6), ("validation", 7), ("test", 8))],
            SPACE,
            "data.split.train: ",
        ),
    ],
)
def test_a_study_that_compares_on_something_else_is_refused_with_the_difference(
    configure, trainings: Trainings, tmp_path: Path, overrides, space, difference
):
    tune(configure("search.n_trials=1"), tmp_path)
    message = refusal(lambda: tune(configure(*overrides, space=space), tmp_path))
    assert difference in message
    assert_names(message, "use the same", "search.study_name")
    assert len(trainings.configs) == 1
    assert tune(configure(*overrides, "search.study_name=other", space=space), tmp_path).counted == 6


def test_a_study_that_began_with_other_weights_is_refused(configure, trainings: Trainings, tmp_path: Path):
    config = configure("search.n_trials=1", space=SPACE[:1])
    tune(config, tmp_path, warm_start=WarmStart("0123abcd", tmp_path / "best.ckpt"))
    message = refusal(lambda: tune(configure(space=SPACE[:1]), tmp_path))
    assert_names(message, "warm_start_run_id: 0123abcd → absent", "use the same")


def test_a_study_of_another_program_is_refused(configure, trainings: Trainings, tmp_path: Path):
    with open_database(configure(), "", lambda *_: None) as database:
        study = optuna.create_study(storage=database.storage, study_name="train-delays")
        study.tell(study.ask(), 1.0)
    assert_names(refusal(lambda: tune(configure(), tmp_path)), "'train-delays'", "not made by", "search.study_name")


def test_a_study_whose_making_was_interrupted_is_made_whole(configure, trainings: Trainings, tmp_path: Path):
    config = configure("search.n_trials=2")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Terminated):
        patch.setattr(optuna.Study, "set_user_attr", interrupt_at("identity"))
        tune(config, tmp_path)
    assert tune(config, tmp_path).complete == 2
    assert [trial.user_attrs.get("defaults") for trial in trials_of(config)] == [True, None]


def interrupt_at(name: str):
    """`Study.set_user_attr` of a process that is stopped at the attribute `name`."""
    original = optuna.Study.set_user_attr

    def set_user_attr(study: optuna.Study, key: str, value: object) -> None:
        if key == name:
            raise Terminated
        original(study, key, value)

    return set_user_attr


def test_how_a_study_is_searched_may_change_when_it_goes_on(configure, trainings: Trainings, tmp_path: Path):
    tune(configure("search.n_trials=2"), tmp_path)
    changes = ["search.sampler.name=random", "search.pruner.name=median", "training.log_every_s=1"]
    assert tune(configure(*changes), tmp_path).counted == 6


# --- samplers and pruners --------------------------------------------------------------------------------------------
def test_a_bad_trial_is_pruned_and_counts(configure, trainings: Trainings, tmp_path: Path):
    pruner = ["search.pruner.name=median", "search.pruner.n_startup_trials=2", "search.pruner.n_warmup_epochs=1"]
    found = tune(configure(*pruner, "search.n_trials=10"), tmp_path)
    assert found.pruned > 0
    assert found.complete + found.pruned == 10
    pruned = [trial for trial in trials_of(configure()) if trial.state is TrialState.PRUNED]
    assert all(trial.user_attrs["epochs"] < 3 for trial in pruned)


def test_samplers_by_configuration(configure):
    tpe = create_sampler(configure().search, 3)
    assert isinstance(tpe, optuna.samplers.TPESampler) and tpe._constant_liar is False
    parallel = configure("search.n_workers=4", "search.storage_url=postgresql://host/db").search
    assert create_sampler(parallel, 3)._constant_liar is True
    assert isinstance(create_sampler(configure("search.sampler.name=random").search, 3), optuna.samplers.RandomSampler)


def test_every_trial_draws_from_another_seed(configure):
    def draw(n_trials: int, *overrides: str) -> float:
        study = optuna.create_study(sampler=create_sampler(configure(*overrides).search, n_trials))
        return study.ask().suggest_float("x", 0, 1)

    assert len({draw(n) for n in range(20)}) == 20
    assert draw(3) == draw(3) != draw(3, "search.sampler.seed=1")


@pytest.mark.parametrize(
    ("name", "kind"), [("median", "MedianPruner"), ("hyperband", "HyperbandPruner"), ("none", "NopPruner")]
)
def test_pruners_by_configuration(configure, name: str, kind: str):
    assert type(create_pruner(configure(f"search.pruner.name={name}"))).__name__ == kind


def test_hyperband_studies_run(configure, trainings: Trainings, tmp_path: Path):
    found = tune(configure("search.pruner.name=hyperband", "search.pruner.n_warmup_epochs=1"), tmp_path)
    assert found.counted == 6 and found.complete > 0


# --- progress --------------------------------------------------------------------------------------------------------
def test_each_trial_tells_its_values_its_place_and_the_best(configure, trainings: Trainings, tmp_path: Path, caplog):
    with caplog.at_level("INFO"):
        tune(configure("search.n_trials=2", "training.learning_rate=0.001"), tmp_path)
    assert "study train-delays: new, 2 trials" in caplog.text
    assert "  model.n_layers: 1 … 4" in caplog.text
    assert "trial 0 (1 of 2): training.learning_rate=0.001, model.n_layers=1" in caplog.text
    assert re.search(r"trial 0: complete, 101\.0 s after \d+ s; best 101\.0 s of trial 0", caplog.text)


def test_progress_of_an_empty_study():
    found = progress(optuna.create_study())
    assert (found.counted, found.best) == (0, None)
