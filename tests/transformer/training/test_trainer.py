"""Training: it learns, resumes as if it had not stopped, and its checkpoints hold everything needed."""

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import lightning as L
import polars as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from tests.support.messages import assert_names
from transformer.config import Config, TrainingConfig, load_config, with_values
from transformer.data.dates import Split, resolve_split
from transformer.errors import UserError
from transformer.features.cache import Embeddings, obtain_inputs
from transformer.model.calibration import QuantileCalibration, trusted
from transformer.model.copula import RankCorrelation
from transformer.model.module import DelayModule
from transformer.tracking.run_log import RunLog
from transformer.training import callbacks, datamodule, trainer
from transformer.training.callbacks import read_history
from transformer.training.checkpoints import BEST, CHECKPOINTS, HISTORY, LAST, load_module, load_weights
from transformer.training.datamodule import SnapshotDataModule


def split_of(config: Config) -> Split:
    return resolve_split(config.data.split, Path(config.data.local_folder), True, config.data.timezone)


def run(config: Config, folder: Path, **start: Path) -> trainer.TrainingResult:
    split = split_of(config)
    return trainer.train(
        config,
        split,
        *obtain_inputs(config, split),
        RunLog(config, ""),
        folder,
        **start,
    )


@pytest.fixture(scope="module")
def trained(small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(small_config, folder)
    return folder / CHECKPOINTS


def same_weights(left: Path, right: Path) -> bool:
    a, b = (load_module(path).state_dict() for path in (left, right))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_leaves_the_documented_files_and_a_row_per_epoch(trained: Path):
    assert sorted(path.name for path in trained.iterdir()) == [BEST, HISTORY, LAST]
    history = read_history(trained / HISTORY)
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert all(row["val_mae_s"] > 0 and row["learning_rate"] >= 0 for row in history)


def test_checkpoint_loads_without_pickle_and_predicts_alone(trained: Path):
    checkpoint = torch.load(trained / BEST, weights_only=True)
    assert {"state_dict", "hyper_parameters"} <= checkpoint.keys()
    module = load_module(trained / BEST)
    assert module.network.point_vectors.abs().sum() > 0
    assert module.network.scales["delay"] > 1


def test_a_checkpoint_is_calibrated_on_its_own_validation_rows(small_config: Config, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("transformer.model.calibration.MIN_ROWS", 20)  # the small railway has few
    run(
        with_values(small_config, {"training.max_epochs": 1}, "test"),
        tmp_path,
    )
    module, split = load_module(tmp_path / CHECKPOINTS / BEST), split_of(small_config)
    data = SnapshotDataModule(small_config, split, obtain_inputs(small_config, split)[0])
    data.setup("validate")
    calibration = QuantileCalibration(module.network.levels)
    for batch in data.val_dataloader():
        mask = batch["label_mask"]
        with torch.inference_mode():
            quantiles = module.network.quantiles(batch)[mask]
        calibration.update(quantiles, batch["label"][mask], batch["next_planned"][mask])
    expected = trusted(calibration.compute(), len(split.validation))
    assert expected.any()
    torch.testing.assert_close(module.network.correction, expected)


def test_a_checkpoint_knows_how_delays_go_together_along_a_train(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("transformer.model.copula.MIN_ROWS", 20)  # the small railway has few
    config = with_values(small_config, {"training.max_epochs": 1}, "test")
    run(config, tmp_path)
    module, split = load_module(tmp_path / CHECKPOINTS / BEST), split_of(config)
    data = SnapshotDataModule(config, split, obtain_inputs(config, split)[0])
    data.setup("validate")
    expected = RankCorrelation(module.network.levels, module.network.shape.n_foll)
    for batch in data.val_dataloader():
        with torch.inference_mode():
            expected.update(module.network.quantiles(batch), batch["label"], batch["label_mask"])
    torch.testing.assert_close(module.network.rank_correlation, expected.compute())
    assert module.network.rank_correlation[0, 1] > 0.3  # a train that is late stays late


@pytest.mark.parametrize("change", ["weights", "loss"])
def test_a_checkpoint_of_an_earlier_release_is_refused_in_one_line(trained: Path, tmp_path: Path, change: str):
    checkpoint = torch.load(trained / BEST, weights_only=True)
    if change == "weights":
        del checkpoint["state_dict"]["network.bins.edges"]
    else:
        checkpoint["hyper_parameters"]["training"]["loss"] = {"name": "mae", "quantile_weight": 2.0}
    torch.save(checkpoint, tmp_path / BEST)
    with pytest.raises(UserError, match=r"belongs to another version of the network; train the model again$"):
        load_module(tmp_path / BEST)


@pytest.mark.parametrize("timezone", ["America/New_York", "Asia/Tokyo", "Australia/Sydney", "Europe/Brussels"])
def test_one_validation_date_is_trusted_as_one(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timezone: str
):
    """Wherever the railway is: the day of its clock counts, not that of UTC."""
    counted = []
    monkeypatch.setattr("transformer.model.module.trusted", lambda correction, n: counted.append(n) or correction)
    elsewhere = {"data.timezone": timezone, "training.max_epochs": 1, "data.grid.start": "00:00"}
    config = with_values(small_config, elsewhere, "test")
    run(config, tmp_path)
    assert counted == [len(split_of(config).validation)] == [1]


def test_same_seed_same_model_other_seed_another(small_config: Config, trained: Path, tmp_path: Path):
    run(small_config, tmp_path / "same")
    assert same_weights(tmp_path / "same" / CHECKPOINTS / LAST, trained / LAST)
    other = with_values(small_config, {"training.seed": 7}, "test")
    run(other, tmp_path / "other")
    assert not same_weights(tmp_path / "other" / CHECKPOINTS / LAST, trained / LAST)


class SuddenEndError(Exception):
    pass


class InterruptAfter(Callback):
    """Ends the training in the middle of an epoch, without warning."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.current_epoch == self.epoch:
            raise SuddenEndError


@pytest.mark.parametrize("epoch", [1, 2])
def test_resumed_training_equals_an_uninterrupted_one(
    small_config: Config, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
):
    make = trainer._trainer

    def interrupted(*arguments: object) -> L.Trainer:
        trainer = make(*arguments)
        trainer.callbacks.insert(0, InterruptAfter(epoch))
        return trainer

    with monkeypatch.context() as patch, pytest.raises(SuddenEndError):
        patch.setattr(trainer, "_trainer", interrupted)
        run(small_config, tmp_path)
    assert len(read_history(tmp_path / CHECKPOINTS / HISTORY)) == epoch
    run(small_config, tmp_path, resume=tmp_path / CHECKPOINTS / LAST)
    for name in (LAST, BEST):
        assert same_weights(tmp_path / CHECKPOINTS / name, trained / name), name
    assert read_history(tmp_path / CHECKPOINTS / HISTORY) == read_history(trained / HISTORY)
    states = [torch.load(f / LAST, weights_only=True) for f in (tmp_path / CHECKPOINTS, trained)]
    assert states[0]["global_step"] == states[1]["global_step"] and states[0]["epoch"] == states[1]["epoch"]


def test_last_is_of_the_last_epoch_also_when_that_is_no_new_best(small_config: Config, tmp_path: Path):
    config = copy.deepcopy(small_config)
    config.training.learning_rate = 1e-30  # no epoch is better than the first
    run(config, tmp_path)
    epochs = {name: torch.load(tmp_path / CHECKPOINTS / name, weights_only=True)["epoch"] for name in (BEST, LAST)}
    assert epochs == {BEST: 0, LAST: 2}


def test_resuming_a_finished_training_says_so(small_config: Config, trained: Path, tmp_path: Path):
    result = run(small_config, tmp_path, resume=trained / LAST)
    assert result.epochs == 3 and result.best_val_mae_s == min(r["val_mae_s"] for r in read_history(trained / HISTORY))


def test_warm_start_takes_the_weights_and_a_fresh_optimizer(small_config: Config, trained: Path, tmp_path: Path):
    cold = read_history(trained / HISTORY)
    run(small_config, tmp_path, warm_start=trained / BEST)
    warm = read_history(tmp_path / CHECKPOINTS / HISTORY)
    assert [row["epoch"] for row in warm] == [0, 1, 2]
    assert warm[0]["train_loss"] < cold[0]["train_loss"]


def test_warm_start_with_another_network_is_refused_with_the_difference(
    small_config: Config, trained: Path, tmp_path: Path
):
    wider = with_values(small_config, {"model.d_model": 48}, "test")
    with pytest.raises(
        UserError,
        match=r"warm start: .*network\.members\.0\.token\.0\.weight .*\(32, \d+\).*\(48, \d+\).*model configuration",
    ):
        run(wider, tmp_path, warm_start=trained / BEST)
    assert not (tmp_path / CHECKPOINTS).exists()


def fresh_module(config: Config) -> tuple[DelayModule, Embeddings]:
    split = split_of(config)
    statistics, embeddings = obtain_inputs(config, split)
    return trainer.create_module(config, split, statistics, embeddings), embeddings


def test_warm_start_keeps_the_vectors_its_weights_have_learned_to_read(small_config: Config, trained: Path):
    module, embeddings = fresh_module(small_config)
    learned = load_module(trained / BEST).network.point_vectors
    module.network.point_vectors += 1  # another computation could have other directions
    load_weights(module, trained / BEST, embeddings.edges)
    assert torch.equal(module.network.point_vectors, learned)


def test_warm_start_with_a_point_that_model_did_not_know(small_config: Config, trained: Path, caplog):
    """A new point gets the mean of its neighbours; the others keep their vectors at their new places."""
    module, embeddings = fresh_module(small_config)
    shape = module.network.shape
    grown = replace(shape, op_ids=[0, *shape.op_ids])  # sorts before all others: every code moves by one
    wider = DelayModule.create(
        small_config.model, small_config.training, grown, torch.zeros(grown.n_points, grown.d_embedding)
    )
    neighbour = shape.op_ids[3]
    edge = embeddings.edges.head(1).with_columns(op_a=pl.lit(0, pl.Int32), op_b=pl.lit(neighbour, pl.Int32))
    with caplog.at_level("INFO"):
        load_weights(wider, trained / BEST, edge)
    learned = load_module(trained / BEST).network.point_vectors
    assert torch.equal(wider.network.point_vectors[2:], learned[1:])
    assert torch.allclose(wider.network.point_vectors[1, :16], learned[4, :16])
    assert f"{len(shape.op_ids)} of {len(shape.op_ids) + 1} points" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        (["model.use_inputs.train_type=false"], "model.use_inputs.train_type: True → False"),
        (["data.snapshot.n_prev=4"], "data.snapshot.n_prev: 5 → 4"),
        (
            ["embeddings.laplacian.enabled=false", "embeddings.random.enabled=true"],
            "embeddings: {'laplacian': 16, 'geographic': 3} → {'geographic': 3, 'random': 16}",
        ),
    ],
)
def test_warm_start_with_other_inputs_is_refused_with_the_difference(
    small_overrides: list[str], trained: Path, overrides: list[str], difference: str
):
    module, embeddings = fresh_module(load_config("local", [*small_overrides, *overrides]))
    with pytest.raises(UserError) as refusal:
        load_weights(module, trained / BEST, embeddings.edges)
    assert difference in str(refusal.value)


def test_not_a_checkpoint_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / "x.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"x\.ckpt .*checkpoint of this model"):
        load_module(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"y\.ckpt .*not exist.*train the model first"):
        load_module(tmp_path / "y.ckpt")


def test_a_checkpoint_of_another_network_says_so(trained: Path, tmp_path: Path):
    checkpoint = torch.load(trained / BEST, weights_only=True)
    checkpoint["state_dict"] = {
        name.replace("members.0.", ""): value for name, value in checkpoint["state_dict"].items()
    }
    torch.save(checkpoint, tmp_path / "older.ckpt")
    with pytest.raises(UserError, match=r"older\.ckpt .*version of the network.*train the model again"):
        load_module(tmp_path / "older.ckpt")


def test_pickled_code_in_a_checkpoint_is_not_run(tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": {}, "bomb": Bomb()}, tmp_path / "bomb.ckpt")
    with pytest.raises(UserError, match=r"bomb\.ckpt .*checkpoint of this model"):
        load_module(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "ran").exists()


def test_hardware_that_is_not_there_is_refused_in_one_line(small_config: Config, tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    gpu = with_values(small_config, {"training.accelerator": "gpu"}, "test")
    with pytest.raises(UserError, match=r"training\.accelerator=gpu.*use auto"):
        run(gpu, tmp_path)


def test_a_training_that_diverges_says_so_in_one_line(small_config: Config, tmp_path: Path):
    config = copy.deepcopy(small_config)
    config.training.learning_rate = 1e30
    config.training.scheduler.name = "constant"
    with pytest.raises(UserError, match=r"diverged in epoch 1: .* nan.*training\.learning_rate") as caught:
        run(config, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_one_batch_can_be_overfitted(small_overrides: list[str], tmp_path: Path):
    """A network that cannot overfit two snapshots has a fault in its wiring."""
    overrides = [
        *small_overrides,
        "training.overfit_batches=1",
        "training.batch_size=2",
        "training.max_epochs=200",
        "training.learning_rate=0.01",
        "training.early_stopping.enabled=false",
        "model.dropout=0",
        "model.head_dropout=0",
        "model.n_members=1",
        "model.d_model=64",
        "model.d_feedforward=128",
    ]
    result = run(load_config("local", overrides), tmp_path)
    assert result.best_val_mae_s < 0.1 * result.val_translation_mae_s


def test_early_stopping_stops(small_config: Config, tmp_path: Path):
    impatient = {
        "training.max_epochs": 30,
        "training.learning_rate": 1e-9,
        "training.early_stopping.patience": 2,
        "training.early_stopping.min_delta_s": 1.0,
    }
    assert run(with_values(small_config, impatient, "test"), tmp_path).epochs == 3


@pytest.mark.parametrize("name", ["mixed", "log", "rps"])
def test_every_loss_trains(small_config: Config, tmp_path: Path, name: str):
    chosen = {"training.max_epochs": 1, "training.loss.name": name}
    assert run(with_values(small_config, chosen, "test"), tmp_path).epochs == 1


def test_training_instants_depend_on_seed_and_epoch_alone(small_config: Config):
    split = split_of(small_config)
    statistics = obtain_inputs(small_config, split)[0]

    def first_batch(epoch: int) -> torch.Tensor:
        data = SnapshotDataModule(small_config, split, statistics)
        data.setup("fit")
        data.trainer = type("Trainer", (), {"current_epoch": epoch, "global_rank": 0, "world_size": 1})()
        return data.train_dataloader().dataset[0]["instant"]

    assert torch.equal(first_batch(3), first_batch(3))
    assert not torch.equal(first_batch(3), first_batch(4))


@pytest.mark.parametrize(
    ("configured", "accelerator", "gpus", "cores", "workers"),
    [
        (None, "auto", 0, 8, 0),
        (None, "cpu", 1, 8, 0),
        (None, "auto", 1, 8, 7),
        (None, "gpu", 1, 64, 9),
        (None, "gpu", 4, 16, 3),
        (None, "gpu", 4, 2, 0),
        (2, "auto", 0, 1, 2),
        (0, "gpu", 1, 8, 0),
    ],
)
def test_loaders_use_the_cores_that_a_gpu_leaves(
    monkeypatch: pytest.MonkeyPatch, configured: int | None, accelerator: str, gpus: int, cores: int, workers: int
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(datamodule.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    training = TrainingConfig(num_workers=configured, accelerator=accelerator)
    assert datamodule.loader_workers(training) == workers


@pytest.mark.parametrize("overfit_batches", [0, 1])
def test_history_varies_unless_a_batch_is_to_be_overfitted(small_config: Config, overfit_batches: int):
    split = split_of(small_config)
    settings = {"training.overfit_batches": overfit_batches, "training.vary_history": True}
    data = SnapshotDataModule(with_values(small_config, settings, "test"), split, obtain_inputs(small_config, split)[0])
    data.setup("fit")
    before = data.builders["train"]
    data.train_dataloader()
    assert (data.builders["train"] is before) == bool(overfit_batches)


def test_progress_is_a_line_every_few_seconds(small_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    often = {"training.max_epochs": 1, "training.log_every_s": 0.001}
    with caplog.at_level("INFO", logger="transformer.training"):
        run(with_values(small_config, often, "test"), tmp_path)
    lines = [record.message for record in caplog.records]
    assert any("epoch 1/1, step" in line and "snapshots/s" in line and "left" in line for line in lines)
    assert any("epoch 1/1 done" in line and "skill" in line for line in lines)


def test_resuming_with_another_configuration_lists_every_difference(
    small_config: Config, trained: Path, tmp_path: Path
):
    changed = with_values(
        small_config, {"training.learning_rate": 0.5, "training.num_workers": 1, "model.dropout": 0.3}, "test"
    )
    with pytest.raises(UserError) as refusal:
        run(changed, tmp_path, resume=trained / LAST)
    message = str(refusal.value)
    assert "model.dropout: 0.25 → 0.3; training.learning_rate: 0.0015 → 0.5;" in message
    assert "num_workers" not in message  # it may differ on resume
    assert not (tmp_path / CHECKPOINTS).exists()


def test_resuming_with_another_configuration_when_allowed(small_config: Config, trained: Path, tmp_path: Path):
    longer = {"training.max_epochs": 4, "training.allow_changes_on_resume": True}
    result = run(with_values(small_config, longer, "test"), tmp_path, resume=trained / LAST)
    assert result.epochs == 4


@pytest.fixture
def republished(small_config: Config, tmp_path: Path) -> Config:
    """The configuration with the same dates and a copy of the data, which a test may change."""
    shutil.copytree(small_config.data.local_folder, tmp_path / "data")
    days = {f"data.split.{name}": dates for name, dates in split_of(small_config).as_ranges().items()}
    return with_values(small_config, {**days, "data.local_folder": str(tmp_path / "data")}, "test")


def one_point_more(config: Config) -> None:
    path = Path(config.data.local_folder) / "op_nodes.parquet"
    point = pl.DataFrame({"op_id": [9_999]}, schema={"op_id": pl.Int32})
    pl.concat([pl.read_parquet(path), point], how="diagonal").write_parquet(path)


def one_event_less(config: Config) -> None:
    path = Path(config.data.local_folder) / "events" / "events_2025-01-07.parquet"
    pl.read_parquet(path).head(-1).write_parquet(path)


def refusal(config: Config, folder: Path, checkpoint: Path) -> str:
    with pytest.raises(UserError) as caught:
        run(config, folder, resume=checkpoint)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_resuming_on_other_data_names_the_changed_table(republished: Config, trained: Path, tmp_path: Path):
    run(republished, tmp_path / "same", resume=trained / LAST)
    one_event_less(republished)
    message = refusal(republished, tmp_path, trained / LAST)
    assert "data have changed" in message and ": events/events_2025-01-07.parquet; restore" in message
    allowed = {"training.max_epochs": 4, "training.allow_changes_on_resume": True}
    assert run(with_values(republished, allowed, "test"), tmp_path, resume=trained / LAST).epochs == 4
    one_point_more(republished)
    message = refusal(republished, tmp_path, trained / LAST)
    assert ": events/events_2025-01-07.parquet, op_nodes.parquet; restore" in message


def test_other_points_are_refused_even_if_changes_are_allowed(republished: Config, trained: Path, tmp_path: Path):
    """The rows of the weights are those of the points, in their order."""
    one_point_more(republished)
    allowed = with_values(republished, {"training.allow_changes_on_resume": True}, "test")
    assert_names(refusal(allowed, tmp_path, trained / LAST), "operational points", "9999", "warm start")


def test_other_sizes_are_refused_even_if_changes_are_allowed(small_config: Config, trained: Path, tmp_path: Path):
    larger = {"model.d_model": 64, "training.allow_changes_on_resume": True}
    message = refusal(with_values(small_config, larger, "test"), tmp_path, trained / LAST)
    assert_names(message, "weights network.", "32", "64", "use the model")


def test_a_checkpoint_that_does_not_name_its_data_is_resumed(republished: Config, trained: Path, tmp_path: Path):
    """Older releases recorded no data."""
    state = torch.load(trained / LAST, weights_only=True)
    identity = state["callbacks"]["History"]["identity"]
    for name in [name for name in identity if name.startswith("data table ")]:
        del identity[name]
    torch.save(state, tmp_path / "old.ckpt")
    one_event_less(republished)
    assert run(republished, tmp_path, resume=tmp_path / "old.ckpt").epochs == 3


def unobserved(config: Config, days: Sequence[date], keep: pl.Expr) -> None:
    """Remove the observations of dates, except those of `keep`."""
    for day in days:
        path = Path(config.data.local_folder) / "events" / f"events_{day}.parquet"
        pl.read_parquet(path).with_columns(pl.when(keep).then(pl.col("observed_ts", "delay_sec"))).write_parquet(path)


@pytest.mark.parametrize("name", ["train", "validation"])
def test_dates_without_any_observation_are_named(republished: Config, tmp_path: Path, name: str):
    unobserved(republished, getattr(split_of(republished), name), pl.lit(False))
    with pytest.raises(UserError) as caught:
        run(republished, tmp_path)
    first = getattr(split_of(republished), name)[0]
    assert_names(caught.value, f"data.split.{name}", "no event is observed", str(first))


def test_validation_without_a_label_is_no_divergence(republished: Config, tmp_path: Path):
    """Trains are observed in the morning alone, and the grid begins at noon."""
    morning = pl.col("planned_ts").dt.hour() < 7
    unobserved(republished, split_of(republished).validation, morning)
    with pytest.raises(UserError) as caught:
        run(with_values(republished, {"data.grid.start": "12:00"}, "test"), tmp_path)
    assert_names(caught.value, "data.split.validation", "no delay is observed", "data.grid")
    assert "diverged" not in str(caught.value)


BATCH_SYSTEMS = {
    "SLURM": {
        "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7", "SLURM_PROCID": "3", "SLURM_LOCALID": "3",
        "SLURM_NODEID": "1", "SLURM_NODELIST": "node[1-2]", "SLURM_NTASKS_PER_NODE": "2",
    },
    "torchrun": {
        "TORCHELASTIC_RUN_ID": "7", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node1", "MASTER_PORT": "1234",
    },
    "LSF": {
        "LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "/none", "JSM_NAMESPACE_LOCAL_RANK": "1", "JSM_NAMESPACE_SIZE": "4",
        "JSM_NAMESPACE_RANK": "1",
    },
    "Kubeflow": {"KUBERNETES_PORT": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "9", "WORLD_SIZE": "2", "RANK": "1"},
}  # fmt: skip


@pytest.mark.parametrize("system", BATCH_SYSTEMS)
def test_a_batch_system_changes_no_training(
    small_config: Config, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
):
    for name, value in BATCH_SYSTEMS[system].items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TRANSFORMER_TRAINING_PROCESS", raising=False)
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as Lightning finds it when it is imported
    run(small_config, tmp_path)
    assert same_weights(tmp_path / CHECKPOINTS / LAST, trained / LAST)
    assert rank_zero_only.rank == 0


def test_the_remedy_for_automatic_hardware_is_not_auto(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(**_: object) -> L.Trainer:
        raise RuntimeError("no driver")

    monkeypatch.setattr(trainer.L, "Trainer", refuse)
    automatic = with_values(small_config, {"training.accelerator": "auto"}, "test")
    with pytest.raises(UserError, match=r"no driver\); set training\.accelerator=cpu and training\.devices=1$"):
        run(automatic, tmp_path)


def test_best_is_remembered_in_another_folder(trained: Path, tmp_path: Path):
    """After a resume without best.ckpt, an epoch that is not better must not become the best."""
    states = torch.load(trained / LAST, weights_only=True)["callbacks"]
    moved = callbacks.FixedCheckpoint(tmp_path, BEST, callbacks.MONITORED)
    state = states[moved.state_key]
    moved.load_state_dict(state)
    best = min(row["val_mae_s"] for row in read_history(trained / HISTORY))
    assert float(moved.best_model_score) == pytest.approx(best)
    assert moved.best_model_path == moved.kth_best_model_path == str(tmp_path / BEST)
    assert list(moved.best_k_models) == [str(tmp_path / BEST)]
