"""Statistics and embeddings of the training dates, kept under the content hash of what made them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Self

import polars as pl

from transformer.config import Config, to_dict
from transformer.data.dates import Split
from transformer.data.events import data_fingerprint, read_days, read_op_nodes
from transformer.features.embeddings import PointEmbeddings, compute_embeddings
from transformer.features.graph import count_components, edge_counts, graph_from_edge_counts, merge_edge_counts
from transformer.features.statistics import (
    Statistics,
    compute_statistics,
    load_statistics,
    save_statistics,
    statistics_hash,
)
from transformer.files import atomic_folder, content_hash, read_parquet, write_parquet

log = logging.getLogger(__name__)

VERSION = 1  # of the embeddings; raise when their meaning changes


@dataclass(frozen=True)
class Embeddings:
    """Vectors per point and the edges of the railway they were computed on."""

    points: PointEmbeddings
    edges: pl.DataFrame  # op_a, op_b, running_time_s, journeys

    def save(self, folder: Path, replace: bool = False) -> None:
        """Write `points.parquet` and `edges.parquet`; all or nothing."""
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
    """Where the statistics of the training dates are, or would be, in the cache."""
    return Path(config.paths.cache) / "statistics" / statistics_hash(config.data, split.train)


def embeddings_folder(config: Config, split: Split) -> Path:
    """Where the embeddings of the training dates are, or would be, in the cache."""
    identity = content_hash(
        VERSION,
        data_fingerprint(Path(config.data.local_folder), split.train),
        to_dict(config.embeddings),
        to_dict(config.data.validation),
        config.data.timezone,
    )
    return Path(config.paths.cache) / "embeddings" / identity


def obtain_statistics(config: Config, split: Split, recompute: bool = False) -> Statistics:
    """Statistics of the training dates, from the cache when it has them and `recompute` is off.

    Raises:
        UserError: unreadable data, or a damaged cache.
    """
    folder = statistics_folder(config, split)
    if not recompute and (folder.is_dir() or _fetched(config, folder)):
        log.info("statistics: reused from %s", folder)
        statistics = load_statistics(folder)
        _share(config, folder, replace=False)  # the run that computed them may not have got that far
        return statistics
    log.info("statistics: computing over %d service dates", len(split.train))
    statistics = compute_statistics(config.data, split.train)
    save_statistics(statistics, folder, replace=recompute)
    log.info("statistics: written to %s", folder)
    _share(config, folder, replace=recompute)
    return statistics


def obtain_embeddings(config: Config, split: Split, recompute: bool = False) -> Embeddings:
    """Embeddings of the operational points, from the cache when it has them and `recompute` is off.

    Raises:
        UserError: unreadable data, or a damaged cache.
    """
    folder = embeddings_folder(config, split)
    if not recompute and (folder.is_dir() or _fetched(config, folder)):
        log.info("embeddings: reused from %s", folder)
        embeddings = Embeddings.load(folder)
        _share(config, folder, replace=False)
        return embeddings
    log.info("embeddings: computing over %d service dates", len(split.train))
    edges = timetable_edges(config, split.train)
    op_nodes = read_op_nodes(Path(config.data.local_folder))
    graph = graph_from_edge_counts(edges)
    log.info("railway: %d points, %d links, %d parts", len(graph.op_ids), len(graph.edges), count_components(graph))
    points = compute_embeddings(graph, op_nodes, config.embeddings)
    embeddings = Embeddings(points, edges)
    embeddings.save(folder, replace=recompute)
    log.info("embeddings: %d points × %d numbers, written to %s", len(points.op_ids), points.dim, folder)
    _share(config, folder, replace=recompute)
    return embeddings


def _fetched(config: Config, folder: Path) -> bool:
    """Take a folder of the cache from the bucket, where another machine may have left it under the same hash."""
    if not config.data.download_data_from_s3:
        return False
    from transformer.storage.bucket import Bucket
    from transformer.storage.shared_folder import download_folder

    return download_folder(Bucket.from_config(config.data), f"{folder.parent.name}/{folder.name}", folder)


def _share(config: Config, folder: Path, replace: bool) -> None:
    """Leave a folder of the cache in the bucket for other machines."""
    if config.data.save_results_to_s3:
        from transformer.storage.bucket import Bucket
        from transformer.storage.shared_folder import upload_folder

        bucket = Bucket.from_config(config.data)
        upload_folder(bucket, folder, f"{folder.parent.name}/{folder.name}", replace=replace)


def timetable_edges(config: Config, days: Sequence[date]) -> pl.DataFrame:
    """How many journeys are planned over each link of the railway on `days`; one date in memory at a time."""
    return merge_edge_counts([edge_counts(read_days(config.data, [day], quiet=True)[0]) for day in days])
