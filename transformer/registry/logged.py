"""The trained model of a run as its logged model, which is also the content of a registered version."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from transformer.config import flatten, to_dict
from transformer.registry.versions import Registered
from transformer.tracking.logged_models import download_model, find_model, log_model
from transformer.tracking.run_log import RunLog

if TYPE_CHECKING:
    import polars as pl


def log_trained(run: RunLog, folder: Path, example: pl.DataFrame) -> str:
    """Make a run's trained model its logged model, and return its id. A second call logs nothing new.

    Args:
        folder: the trained model, in the layout of a run folder; see `training.run_folder`.
        example: events (EVENT_SCHEMA); a few of them become the input example.

    Raises:
        UserError: there is no such trained model, or it cannot predict the example.
        ServiceError: the server stopped answering.
    """
    # Packing a model needs torch. A process that only looks up the champion may have MLflow's client and no torch.
    from transformer.registry.package import content_of, write_model

    content = content_of(folder)
    if known := find_model(run.config, run.run_id, content):
        return known
    with tempfile.TemporaryDirectory() as temporary:
        packed = Path(temporary) / content
        write_model(folder, packed, example, Path(run.config.data.local_folder))
        settings = {key: str(value) for key, value in flatten(to_dict(run.config)).items() if key.startswith("model.")}
        return log_model(run.config, run.run_id, packed, content, settings)


def trained_files_of(run: RunLog, registered: Registered, target: Path) -> Path:
    """Fetch the files of a registered version, in the layout of a run folder. The result is in the folder `target`.

    Args:
        run: the run of the version.

    Raises:
        UserError: this program did not register the version.
    """
    folder = registered.folder
    if registered.model_id:
        return download_model(run.config, registered.model_id, folder, target)
    return run.download_folder(folder, target)
