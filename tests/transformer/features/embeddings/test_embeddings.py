"""All kinds together: placement over all points, scale, the matrix of a model, files, and later timetables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.support.messages import assert_names
from transformer.config import (
    EmbeddingsConfig,
    GeographicConfig,
    LaplacianConfig,
    RandomEmbeddingConfig,
)
from transformer.errors import UserError
from transformer.features.embeddings import KINDS, PointEmbeddings, compute_embeddings, extend, standardise
from transformer.features.graph import edge_counts, graph_from_edge_counts, merge_edge_counts

MAV = Path(__file__).resolve().parents[5] / "shared" / "data" / "mav_2024_12"
LINE = [(10, 20), (20, 30), (30, 40), (40, 50)]
ALL_KINDS = EmbeddingsConfig(laplacian=LaplacianConfig(dim=3), random=RandomEmbeddingConfig(enabled=True, dim=5))


@pytest.fixture
def op_nodes(nodes_of) -> pl.DataFrame:
    """The line runs north. 30 has no position, 60 has no trains, and 70 has neither."""
    positions = {op_id: (46 + op_id / 100, 19.0) for op_id in (10, 20, 40, 50, 60)}
    return nodes_of({**positions, 30: None, 70: None})


@pytest.fixture
def embeddings(graph_of, op_nodes) -> PointEmbeddings:
    return compute_embeddings(graph_of(LINE), op_nodes, ALL_KINDS)


def row(embeddings: PointEmbeddings, kind: str, op_id: int) -> np.ndarray:
    return embeddings.vectors[kind][embeddings.op_ids.tolist().index(op_id)]


def test_all_points_and_all_kinds(embeddings: PointEmbeddings) -> None:
    assert embeddings.op_ids.tolist() == [10, 20, 30, 40, 50, 60, 70]
    assert tuple(embeddings.vectors) == KINDS
    assert {kind: v.shape for kind, v in embeddings.vectors.items()} == {
        "laplacian": (7, 3),
        "geographic": (7, 3),
        "random": (7, 5),
    }
    assert {v.dtype for v in embeddings.vectors.values()} == {np.dtype(np.float32)}
    assert embeddings.dim == 11


def test_points_of_the_graph_alone_are_held_too(graph_of, op_nodes) -> None:
    embeddings = compute_embeddings(graph_of([*LINE, (50, 90)]), op_nodes, ALL_KINDS)

    assert embeddings.op_ids.tolist()[-1] == 90
    assert row(embeddings, "laplacian", 90).any() and row(embeddings, "random", 90).any()
    assert row(embeddings, "geographic", 90).tolist() == [*row(embeddings, "geographic", 50)[:2], 0]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_switched_on_its_own(graph_of, op_nodes, kind: str) -> None:
    config = EmbeddingsConfig(
        laplacian=LaplacianConfig(enabled=kind == "laplacian"),
        geographic=GeographicConfig(enabled=kind == "geographic"),
        random=RandomEmbeddingConfig(enabled=kind == "random"),
    )

    assert list(compute_embeddings(graph_of(LINE), op_nodes, config).vectors) == [kind]


def test_row_order_of_the_points_does_not_matter(graph_of, op_nodes, embeddings: PointEmbeddings) -> None:
    shuffled = compute_embeddings(graph_of(LINE[::-1]), op_nodes.reverse(), ALL_KINDS)

    np.testing.assert_array_equal(shuffled.op_ids, embeddings.op_ids)
    for kind, vectors in embeddings.vectors.items():
        np.testing.assert_array_equal(shuffled.vectors[kind], vectors)


def test_laplacian_is_standardised_over_the_points_of_the_graph(embeddings: PointEmbeddings) -> None:
    vectors = embeddings.vectors["laplacian"]

    np.testing.assert_allclose(vectors[:5].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(vectors[:5].std(axis=0), 1, atol=1e-5)
    assert not vectors[5:].any(), "points without trains are unknown"


def test_geographic_keeps_distances_and_marks_known_positions(embeddings: PointEmbeddings) -> None:
    geographic = embeddings.vectors["geographic"]

    assert geographic[:, 2].tolist() == [1, 1, 0, 1, 1, 1, 0]
    north = geographic[:, 1]
    np.testing.assert_allclose(np.diff(north[[0, 1, 2, 3, 4, 5]]), north[1] - north[0], rtol=1e-4)
    np.testing.assert_allclose(geographic[6], 0)
    known = geographic[geographic[:, 2] == 1, :2]
    np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-6)
    assert known.var(axis=0).mean() == pytest.approx(1, abs=1e-5)


def test_standardise_leaves_constant_columns_at_zero() -> None:
    columns = np.column_stack([np.full(5, 0.1), np.arange(5.0)])

    scaled = standardise(columns)

    assert not scaled[:, 0].any()
    np.testing.assert_allclose([scaled[:, 1].mean(), scaled[:, 1].std()], [0, 1], atol=1e-12)
    assert standardise(np.zeros((0, 3))).shape == (0, 3)


def test_matrix_follows_the_order_and_begins_with_no_point(embeddings: PointEmbeddings) -> None:
    matrix = embeddings.matrix([40, 999, 10])

    assert matrix.shape == (4, 11) and matrix.dtype == np.float32
    assert not matrix[0].any() and not matrix[2].any()
    np.testing.assert_array_equal(matrix[1], np.concatenate([row(embeddings, kind, 40) for kind in KINDS]))
    np.testing.assert_array_equal(matrix[3], np.concatenate([row(embeddings, kind, 10) for kind in KINDS]))
    np.testing.assert_array_equal(embeddings.matrix(np.array([40, 999, 10], np.int32)), matrix)
    assert embeddings.matrix([]).shape == (1, 11)


def test_matrix_without_any_kind_has_no_columns(graph_of, op_nodes) -> None:
    off = EmbeddingsConfig(laplacian=LaplacianConfig(enabled=False), geographic=GeographicConfig(enabled=False))

    assert compute_embeddings(graph_of(LINE), op_nodes, off).matrix([10, 20]).shape == (3, 0)


def test_save_and_load_round_trip(tmp_path: Path, embeddings: PointEmbeddings) -> None:
    path = tmp_path / "cache" / "embeddings.parquet"
    embeddings.save(path)

    loaded = PointEmbeddings.load(path)

    np.testing.assert_array_equal(loaded.op_ids, embeddings.op_ids)
    assert loaded.op_ids.dtype == np.int32 and list(loaded.vectors) == list(embeddings.vectors)
    for kind, vectors in embeddings.vectors.items():
        np.testing.assert_array_equal(loaded.vectors[kind], vectors)
        assert loaded.vectors[kind].dtype == np.float32
    np.testing.assert_array_equal(loaded.matrix([10, 70]), embeddings.matrix([10, 70]))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_empty_embeddings_round_trip(tmp_path: Path, graph_of, nodes_of) -> None:
    empty = compute_embeddings(graph_of([]), nodes_of({}), ALL_KINDS)
    empty.save(tmp_path / "embeddings.parquet")

    assert PointEmbeddings.load(tmp_path / "embeddings.parquet").matrix([1]).shape == (2, 11)


def test_load_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.parquet"
    with pytest.raises(UserError) as caught:
        PointEmbeddings.load(path)
    assert_names(caught.value, str(path), "does not exist", "run compute-statistics-and-embeddings")
    path.write_bytes(b"half a file")
    with pytest.raises(UserError) as caught:
        PointEmbeddings.load(path)
    assert_names(caught.value, str(path), "not Parquet", "remove it")
    pl.DataFrame({"a": [1]}).write_parquet(path)
    with pytest.raises(UserError) as caught:
        PointEmbeddings.load(path)
    assert_names(caught.value, str(path), "columns ['a']", "not embeddings", "remove it")


def test_extend_fills_what_a_later_timetable_reaches(edge_table, embeddings: PointEmbeddings) -> None:
    """100 is new and lies between 10 and 20. 60 was known and had no trains. No path leads to 70."""
    extended = extend(embeddings, edge_table([(10, 100), (100, 20), (50, 60)], journeys=[1, 3, 1]))

    assert extended.op_ids.tolist() == [*embeddings.op_ids.tolist(), 100]
    expected = 0.25 * row(embeddings, "laplacian", 10) + 0.75 * row(embeddings, "laplacian", 20)
    np.testing.assert_allclose(row(extended, "laplacian", 100), expected, rtol=1e-5)
    np.testing.assert_allclose(row(extended, "laplacian", 60), row(embeddings, "laplacian", 50), rtol=1e-6)
    assert not row(extended, "laplacian", 70).any()
    position = 0.25 * row(embeddings, "geographic", 10) + 0.75 * row(embeddings, "geographic", 20)
    np.testing.assert_allclose(row(extended, "geographic", 100), [*position[:2], 0], rtol=1e-5, atol=1e-7)
    assert not row(extended, "random", 100).any(), "the control holds nothing about the place of a point"


def test_extend_changes_no_known_vector(edge_table, embeddings: PointEmbeddings) -> None:
    before = {kind: vectors.copy() for kind, vectors in embeddings.vectors.items()}

    extended = extend(embeddings, edge_table([(10, 50), (50, 60), (100, 60)]))

    for kind, vectors in before.items():
        np.testing.assert_array_equal(embeddings.vectors[kind], vectors, err_msg="the original is untouched")
        known = vectors.any(axis=1)
        np.testing.assert_array_equal(extended.vectors[kind][:-1][known], vectors[known])


def test_extend_by_an_empty_timetable(edge_table, embeddings: PointEmbeddings) -> None:
    np.testing.assert_array_equal(extend(embeddings, edge_table([])).matrix([10, 60]), embeddings.matrix([10, 60]))


@pytest.mark.realdata
def test_embeddings_of_real_training_dates() -> None:
    if not MAV.is_dir():
        pytest.skip(f"{MAV} is absent")
    day = {n: edge_counts(pl.read_parquet(MAV / "events" / f"events_2024-12-{n}.parquet")) for n in (13, 21)}
    graph = graph_from_edge_counts(day[13])
    op_nodes = pl.read_parquet(MAV / "op_nodes.parquet")

    embeddings = compute_embeddings(graph, op_nodes, EmbeddingsConfig())

    assert all(np.isfinite(vectors).all() for vectors in embeddings.vectors.values())
    assert np.abs(embeddings.vectors["laplacian"]).max() < 15
    geographic = embeddings.vectors["geographic"]
    assert geographic[:, 2].sum() == 1_382 - 265, "265 points have no position"
    assert (geographic[:, 2] == 0).sum() - (~geographic.any(axis=1)).sum() > 200, "most of them lie between others"

    ends = np.searchsorted(embeddings.op_ids, graph.op_ids)[graph.edges].T
    strangers = np.random.default_rng(0).permutation(ends[1])
    for kind, vectors in embeddings.vectors.items():
        near = np.linalg.norm(vectors[ends[0]] - vectors[ends[1]], axis=1)
        far = np.linalg.norm(vectors[ends[0]] - vectors[strangers], axis=1)
        assert np.median(near) < 0.5 * np.median(far), f"{kind}: neighbours are nearer than strangers"

    extended = extend(embeddings, merge_edge_counts([day[21]]))
    unknown = {
        name: (~table.vectors["laplacian"].any(axis=1)).sum()
        for name, table in {"before": embeddings, "after": extended}.items()
    }
    assert unknown["after"] < unknown["before"]
