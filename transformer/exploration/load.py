"""Which run to look into, and where its data are."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from transformer.config import Config, flatten, read_value, with_values
from transformer.errors import UserError
from transformer.tracking.names import CONFIG_ARTIFACT, is_run_id
from transformer.tracking.run_log import RunLog
from transformer.training.checkpoints import BEST, CHECKPOINTS
from transformer.training.run_folder import INPUTS, TrainedModel, download_trained

DATA_FOLDER = "data.local_folder"


def newest_run(config: Config) -> Path:
    """The folder in `paths.runs` whose training has last improved on itself.

    Raises:
        UserError: no run there has finished an epoch.
    """
    runs = Path(config.paths.runs)
    checkpoints = [path for path in runs.glob(f"*/{CHECKPOINTS}/{BEST}") if (path.parents[1] / INPUTS).is_dir()]
    if not checkpoints:
        raise UserError(f"{runs} holds no trained run: run `make train` first")
    return max(checkpoints, key=lambda path: path.stat().st_mtime).parents[1]


def load_run(run: str, config: Config, data: str = "") -> tuple[TrainedModel, Config]:
    """A trained model, and its configuration at the places of today.

    Args:
        run: a run folder; the id of an MLflow run, whose folder in `paths.runs` is taken where there is one; or "" for
            the newest run.
        config: where runs, data and MLflow are.
        data: folder of event tables; "" = the one that the run was trained on, where it is still there.

    Raises:
        UserError: no such run, or one that keeps no trained model.
    """
    if not run:
        return _load(newest_run(config), config, data)
    for folder in (Path(run), Path(config.paths.runs) / run):
        if folder.is_dir():
            return _load(folder, config, data)
    if not is_run_id(run):
        raise UserError(f"{run} is no run folder; name one of those in {config.paths.runs}, or the id of an MLflow run")
    log = RunLog(config, run)
    log.check("run")
    with tempfile.TemporaryDirectory() as temporary:
        download_trained(log, Path(temporary))
        return _load(Path(temporary), config, data)


def _load(folder: Path, config: Config, data: str) -> tuple[TrainedModel, Config]:
    trained = TrainedModel.load(folder)
    wanted = data or _data_folder(folder / CONFIG_ARTIFACT)
    if wanted and (data or Path(wanted).is_dir()):
        config = with_values(config, {DATA_FOLDER: wanted}, "folder of event tables")
    return trained, trained.located(config)


def _data_folder(path: Path) -> str:
    """Where the training read its events, as its configuration says."""
    try:
        return str(flatten(read_value(path.read_text(encoding="utf-8"))).get(DATA_FOLDER, ""))
    except (yaml.YAMLError, ValueError, AttributeError):
        raise UserError(f"{path} is no configuration; train the model again") from None
