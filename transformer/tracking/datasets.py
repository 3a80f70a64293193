"""Event tables as datasets of an MLflow run, so that its page and the column "Dataset" name the data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformer.config import DataConfig
from transformer.tracking.logged_models import Scored

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_DATES = "service_dates"  # key of a dataset's profile
CONTEXT = "mlflow.data.context"  # MLflow's tag of a dataset: how a run used it
TRAIN, VALIDATION, TEST, EVALUATION = "train", "validation", "test", "evaluation"
TRAINING = (TRAIN, VALIDATION)  # contexts of a training that is not evaluated


@dataclass(frozen=True)
class EventTables:
    """The event tables of some service dates."""

    context: str  # TRAIN, VALIDATION, TEST, or EVALUATION for a window
    dates: Sequence[str]  # dates and ranges, sorted, in the form of `data.split`
    digest: str  # of the content, at most 36 characters
    columns: Mapping[str, str]  # type of each column of an events file


def dataset_input(tables: EventTables, data: DataConfig) -> DatasetInput:
    """The tables as MLflow's dataset. An experiment has one dataset of each name and digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    kind, address = _source(data)
    return DatasetInput(
        Dataset(
            name=dataset_name(tables, data),
            digest=tables.digest,
            source_type=kind,
            source=json.dumps({"uri": address}),
            schema=json.dumps({"mlflow_colspec": [{"name": n, "type": t} for n, t in tables.columns.items()]}),
            profile=json.dumps({_DATES: ", ".join(tables.dates)}),
        ),
        [InputTag(CONTEXT, tables.context)],
    )


def context_of(used: DatasetInput) -> str:
    """How a run used a dataset; "" = it does not say so."""
    return next((str(tag.value) for tag in used.tags if tag.key == CONTEXT), "")


def dates_of(used: DatasetInput) -> str:
    """The service dates of a dataset, such as `2025-01-06..2025-01-10, 2025-01-13`.

    A dataset of another program has no such dates, and the result is its name.
    """
    try:
        return str(json.loads(used.dataset.profile or "")[_DATES])
    except (TypeError, ValueError, KeyError):
        return str(used.dataset.name)


def scored_on(model_id: str, tables: EventTables, data: DataConfig) -> Scored:
    """The place of the metrics that a logged model reaches on event tables."""
    return Scored(model_id, dataset_name(tables, data), tables.digest)


def dataset_name(tables: EventTables, data: DataConfig) -> str:
    """`ride 2024-12-01..2024-12-20`: the folder of the data, the first and the last service date."""
    first, last = tables.dates[0].partition("..")[0], tables.dates[-1].rpartition("..")[-1]
    folder = _source(data)[1].rstrip("/").removesuffix("/data").rpartition("/")[-1]
    return f"{folder} {first}" if first == last else f"{folder} {first}..{last}"


def _source(data: DataConfig) -> tuple[str, str]:
    """MLflow's type of the source, and the address of the tables, which has no credentials."""
    if data.download_data_from_s3:
        prefix = data.bucket_prefix.strip("/")
        return "s3", f"s3://{data.bucket_name}/{prefix}{'/' if prefix else ''}data"
    return "local", str(Path(data.local_folder).resolve())
