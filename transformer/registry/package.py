"""The content of a registered version: the files of a trained model, packed as an MLflow model."""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlflow
import polars as pl
from mlflow.models import ModelSignature
from mlflow.types import Schema

from transformer.data.tables import JOURNEY
from transformer.errors import UserError
from transformer.files import content_hash, file_digest
from transformer.registry import pyfunc
from transformer.registry.pyfunc import INPUT, input_schema, output_schema, params_schema, predict, to_pandas
from transformer.registry.versions import TRAINED
from transformer.tracking.names import CONFIG_ARTIFACT
from transformer.training.checkpoints import BEST, CHECKPOINTS
from transformer.training.run_folder import INPUTS, TrainedModel

PARTS = (CONFIG_ARTIFACT, f"{CHECKPOINTS}/{BEST}", INPUTS)  # of a run folder
EXAMPLE_JOURNEYS = 3
REQUIREMENTS = (  # packages that a prediction loads
    "boto3", "lightning", "numpy", "pandas", "polars", "pyarrow", "pydantic", "pyyaml", "scipy", "tenacity", "torch",
    "tzdata",
)  # fmt: skip


def write_model(folder: Path, target: Path, example: pl.DataFrame, tables: Path | None = None) -> None:
    """Write the trained model of a run folder as an MLflow model into the new folder `target`.

    The model first predicts its own example, so that a model that cannot predict is not registered.

    Args:
        example: valid events with `train_number` and `train_type`; a few of their journeys become the input example.
        tables: folder with the tables of the model's optional inputs, for that prediction. The model holds no copy.
    """
    trained = TrainedModel.load(folder)
    events = to_pandas(_few_journeys(example, input_schema(trained)))
    at = f"{events['observed_ts'].median():%Y-%m-%dT%H:%M:%S}+00:00"
    predict(trained, events, at, tables=tables)
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(temporary) / Path(TRAINED).name
        for name in trained_files(folder):
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, kept / name)
        mlflow.pyfunc.save_model(
            target,
            python_model=pyfunc.__file__,  # MLflow runs this file itself
            code_paths=[str(Path(__file__).parents[1])],  # the whole package `transformer`
            artifacts={"trained": str(kept)},
            signature=ModelSignature(input_schema(trained), output_schema(trained), params_schema(trained)),
            input_example=(events, {"at": at}),
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        )


def content_of(folder: Path) -> str:
    """Content hash of the trained model of a run folder. Raises UserError as `trained_files` does."""
    return content_hash({name: file_digest(folder / name) for name in trained_files(folder)})


def trained_files(folder: Path) -> list[str]:
    """The files of a run folder that make up its trained model. Their paths are relative to the folder.

    Raises:
        UserError: a file is missing.
    """
    for part in PARTS:
        if not (folder / part).exists():
            raise UserError(f"{folder} holds no trained model: {part} is missing; train the model first")
    found = [path for part in PARTS for path in (folder / part, *(folder / part).rglob("*")) if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _few_journeys(events: pl.DataFrame, signature: Schema = INPUT) -> pl.DataFrame:
    """The events of the journeys that were observed last, with the columns of the signature that they have."""
    if "cancelled_ts" in events.columns and "cancelled" not in events.columns:  # as in validated events
        events = events.with_columns(pl.col("cancelled_ts").is_not_null().alias("cancelled"))
    last = events.group_by(JOURNEY).agg(pl.col("observed_ts").max()).drop_nulls().sort("observed_ts", *JOURNEY)
    chosen = events.join(last.tail(EXAMPLE_JOURNEYS), on=JOURNEY, how="semi").sort(*JOURNEY, "seq")
    return chosen.select(name for name in signature.input_names() if name in chosen.columns)
