"""Statistics and embeddings of the training dates, cached under the content hash of their data and settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Self, TypeVar

import polars as pl

from transformer.config import Config, to_dict
from transformer.data.content import refuse_replaced
from transformer.data.dates import Split
from transformer.data.events import DayEvents, data_fingerprint, journeys_by_date
from transformer.data.points import read_op_nodes
from transformer.features.embeddings import PointEmbeddings, compute_embeddings
from transformer.features.graph import count_components, graph_from_edge_counts
from transformer.features.reading import joint_edges, obtain_readings
from transformer.features.statistics import (
    Statistics,
    date_statistics,
    date_statistics_hash,
    folds_of,
    load_statistics,
    merge_dates,
    save_statistics,
    statistics_hash,
)
from transformer.files import atomic_folder, content_hash
from transformer.parquet import read_parquet, write_parquet

log = logging.getLogger(__name__)
T = TypeVar("T")

VERSION = 1  # of the embeddings; raise when their meaning changes


@dataclass(frozen=True)
class Embeddings:
    """Vectors of the points, and the edges of the railway from which they were computed."""

    points: PointEmbeddings
    edges: pl.DataFrame  # op_a, op_b, running_time_s, journeys

    def save(self, folder: Path, replace: bool = False) -> None:
        """Write `points.parquet` and `edges.parquet`, both or neither."""
        with atomic_folder(folder, replace=replace) as temporary:
            self.points.save(temporary / "points.parquet")
            write_parquet(temporary / "edges.parquet", self.edges)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: missing or damaged files.
        """
        edges = read_parquet(folder / "edges.parquet", remedy=f"remove {folder} and run the stage again")
        return cls(PointEmbeddings.load(folder / "points.parquet"), edges)


def statistics_folder(config: Config, split: Split) -> Path:
    """Folder in the cache for the statistics of the training dates; it may not exist."""
    return Path(config.paths.cache) / "statistics" / statistics_hash(config.data, split.train)


def embeddings_folder(config: Config, split: Split) -> Path:
    """Folder in the cache for the embeddings of the training dates; it may not exist."""
    identity = content_hash(
        VERSION,
        data_fingerprint(Path(config.data.local_folder), split.train),
        to_dict(config.embeddings),
        to_dict(config.data.validation),
        config.data.timezone,
    )
    return Path(config.paths.cache) / "embeddings" / identity


def obtain_inputs(
    config: Config, split: Split, recompute_statistics: bool = False, recompute_embeddings: bool = False
) -> tuple[Statistics, Embeddings]:
    """Return the statistics and embeddings of the training dates, from the cache if it has them.

    The missing ones are computed from one reading of the training dates, with one date in memory at a time.

    Args:
        recompute_statistics: compute the statistics even if the cache has them.
        recompute_embeddings: likewise.

    Raises:
        UserError: unreadable data, data that were replaced meanwhile, or a damaged cache.
    """
    fingerprint = data_fingerprint(Path(config.data.local_folder), split.train)
    statistics = None if recompute_statistics else _reused(config, statistics_folder(config, split), load_statistics)
    embeddings = None if recompute_embeddings else _reused(config, embeddings_folder(config, split), Embeddings.load)
    if statistics is None:
        log.info("statistics: computing over %d service dates", len(split.train))
        statistics = _merged_statistics(config, split.train, recompute_statistics)
        refuse_replaced(fingerprint, config.data, split.train)
        folder = statistics_folder(config, split)
        save_statistics(statistics, folder, replace=recompute_statistics)
        log.info("statistics: written to %s", folder)
        _share(config, folder, replace=recompute_statistics)
    if embeddings is None:
        log.info("embeddings: computing over %d service dates", len(split.train))
        embeddings = _compute_embeddings(config, split.train)
        refuse_replaced(fingerprint, config.data, split.train)
        folder = embeddings_folder(config, split)
        embeddings.save(folder, replace=recompute_embeddings)
        points = embeddings.points
        log.info("embeddings: %d points × %d numbers, written to %s", len(points.op_ids), points.dim, folder)
        _share(config, folder, replace=recompute_embeddings)
    return statistics, embeddings


def _reused(config: Config, folder: Path, load: Callable[[Path], T]) -> T | None:
    """The content of a folder of the cache; None = neither the cache nor the bucket has the folder."""
    if not (folder.is_dir() or _fetched(config, folder)):
        return None
    log.info("%s: reused from %s", folder.parent.name, folder)
    found = load(folder)
    _share(config, folder, replace=False)  # the run that computed the folder may have ended before its upload
    return found


def _merged_statistics(config: Config, days: Sequence[date], recompute: bool) -> Statistics:
    """The statistics of all dates, merged from those of each date. Dates that the cache lacks are computed first."""
    data, folder, cache = config.data, Path(config.data.local_folder), Path(config.paths.cache)
    folders = {day: _date_folder(config, day) for day in days}
    lacking = [day for day in days if recompute or not folders[day].is_dir()]
    log.info("statistics: %d of %d dates are in the cache", len(days) - len(lacking), len(days))
    fingerprint = data_fingerprint(folder, lacking)
    journeys = journeys_by_date(folder, lacking, data.timezone)

    def compute(read: DayEvents) -> None:
        statistics = date_statistics(read, journeys[read.day], data)
        refuse_replaced(fingerprint, data, [read.day])
        save_statistics(statistics, folders[read.day], replace=recompute)

    if lacking:
        obtain_readings(data, lacking, cache, compute)
    folds = folds_of(days)
    parts = (load_statistics(folders[day]) for fold in folds for day in fold)
    op_ids = read_op_nodes(folder)["op_id"].to_numpy()
    return merge_dates(parts, folds, op_ids, data.statistics.half_life_days)


def _date_folder(config: Config, day: date) -> Path:
    return Path(config.paths.cache) / "date-statistics" / f"{day}-{date_statistics_hash(config.data, day)}"


def _compute_embeddings(config: Config, days: Sequence[date]) -> Embeddings:
    edges = joint_edges(obtain_readings(config.data, days, Path(config.paths.cache)))
    op_nodes = read_op_nodes(Path(config.data.local_folder))
    graph = graph_from_edge_counts(edges)
    log.info("railway: %d points, %d links, %d parts", len(graph.op_ids), len(graph.edges), count_components(graph))
    return Embeddings(compute_embeddings(graph, op_nodes, config.embeddings), edges)


def _fetched(config: Config, folder: Path) -> bool:
    """Download a folder of the cache, if another machine has uploaded it under the same hash."""
    if not config.data.download_data_from_s3:
        return False
    from transformer.storage.bucket import Bucket
    from transformer.storage.shared_folder import download_folder

    return download_folder(Bucket.from_config(config), f"{folder.parent.name}/{folder.name}", folder)


def _share(config: Config, folder: Path, replace: bool) -> None:
    """Upload a folder of the cache for other machines."""
    if config.data.save_results_to_s3:
        from transformer.storage.bucket import Bucket
        from transformer.storage.shared_folder import upload_folder

        bucket = Bucket.from_config(config)
        upload_folder(bucket, folder, f"{folder.parent.name}/{folder.name}", replace=replace)
