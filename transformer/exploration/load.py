"""Find the run to explore, and the folder of its data."""

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
    """Return the folder in `paths.runs` with the newest best checkpoint.

    Raises:
        UserError: no run in `paths.runs` has finished an epoch.
    """
    runs = Path(config.paths.runs)
    checkpoints = [path for path in runs.glob(f"*/{CHECKPOINTS}/{BEST}") if (path.parents[1] / INPUTS).is_dir()]
    if not checkpoints:
        raise UserError(f"{runs} holds no trained run; run `make train` first")
    return max(checkpoints, key=lambda path: path.stat().st_mtime).parents[1]


def load_run(run: str, config: Config, data: str = "") -> tuple[TrainedModel, Config]:
    """Return a trained model, and its configuration with the locations of `config`.

    Args:
        run: a run folder, or the id of an MLflow run, or "" = the newest run. A folder in `paths.runs` with this id is
            preferred to the files in MLflow.
        config: locations of runs, data and MLflow.
        data: folder of event tables; "" = the folder that the run was trained on, or `data.local_folder` of `config` if
            that folder no longer exists.

    Raises:
        UserError: the run does not exist, or it holds no trained model.
    """
    if not run:
        return _load(newest_run(config), config, data)
    for folder in (Path(run), Path(config.paths.runs) / run):
        if folder.is_dir():
            return _load(folder, config, data)
    if not is_run_id(run):
        raise UserError(f"{run} is no run folder; name a folder in {config.paths.runs} or the id of an MLflow run")
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
    """Return the folder of event tables of the training, from its configuration; "" = not set."""
    try:
        return str(flatten(read_value(path.read_text(encoding="utf-8"))).get(DATA_FOLDER, ""))
    except (yaml.YAMLError, ValueError, AttributeError):
        raise UserError(f"{path} is not a configuration; train the model again") from None
