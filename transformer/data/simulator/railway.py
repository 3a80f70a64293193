"""A simulated railway: links join hubs, stations and junctions are on the links, and lines run from hub to hub.

Lines take the shortest way between their ends. So they cross at hubs, and share the sections of common links. Every
link has two tracks: a section is directed and belongs to one running direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import networkx as nx
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_array
from scipy.spatial import Delaunay

from transformer.data.simulator.settings import SimulationConfig

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

CENTRE_LAT, CENTRE_LON = 50.6, 4.6  # degrees; centre of the sample railway
KM_PER_DEGREE = 111.2  # of latitude
HUB_SPACING_KM = 32.0
POINTS_PER_HUB = 8  # gives about five points between neighbouring hubs, and sections of about 5 km
HUBS_PER_LINE = 0.75  # so few that lines share links
LINE_LINKS = 2  # least number of links of a line, if the railway allows it
JUNCTION_SHARE = 0.15  # share of the points between hubs where no train stops
FIRST_OP_ID, OP_ID_STEP = 100, 3  # ids have gaps, like real ids
NAME_STARTS = "Alt Berg Birk Bruck Dorn Eber Eich Feld Grün Hall Hoch Kirch Lang Linden Mühl Neu Ober Rosen Stein Wald"
NAME_ENDS = "au bach berg born burg dorf feld furt hausen heim hof ingen mark rode stadt stein tal wald werder zell"


@dataclass(frozen=True)
class Railway:
    """N points and S directed sections.

    Attributes:
        x_km, y_km: position of each point, (N,) kilometres east and north of the centre.
        is_hub, is_junction: kind of each point, (N,); all other points are stations.
        lines: the points of each line from end to end.
        section: `(from, to)` → section index.
        length_km: length of each section, (S,).
    """

    x_km: Array
    y_km: Array
    is_hub: Flags
    is_junction: Flags
    lines: list[list[int]]
    section: dict[tuple[int, int], int]
    length_km: Array

    def op_ids(self) -> npt.NDArray[np.int64]:
        return FIRST_OP_ID + OP_ID_STEP * np.arange(len(self.x_km))

    def op_names(self) -> list[str]:
        stems = ["".join(parts) for parts in product(NAME_STARTS.split(), NAME_ENDS.split())]
        stride = 83  # no divisor of the 400 names, so that neighbours have different first syllables
        names = [stems[point * stride % len(stems)] for point in range(len(self.x_km))]
        rounds = [f" {point // len(stems) + 1}" if point >= len(stems) else "" for point in range(len(names))]
        kinds = np.select([self.is_hub, self.is_junction], [" Central", " Junction"], "")
        return [f"{name}{kind}{again}" for name, kind, again in zip(names, kinds, rounds, strict=True)]

    def op_nodes(self, config: SimulationConfig) -> pl.DataFrame:
        """Return the points table. As in real data, some positions are unknown."""
        rng = np.random.default_rng([config.seed, len(self.x_km)])
        known = pl.Series(rng.random(len(self.x_km)) >= config.missing_position_share)
        lon_scale = KM_PER_DEGREE * np.cos(np.radians(CENTRE_LAT))
        frame = pl.DataFrame(
            {
                "op_id": self.op_ids(),
                "op_name": self.op_names(),
                "lat": np.round(CENTRE_LAT + self.y_km / KM_PER_DEGREE, 5),
                "lon": np.round(CENTRE_LON + self.x_km / lon_scale, 5),
            }
        )
        return frame.with_columns(pl.when(known).then(pl.col("lat", "lon")))


def build_railway(config: SimulationConfig, rng: np.random.Generator) -> Railway:
    """Lay out `config.points` points and `config.lines` lines. Every point is on a line."""
    hub_count = min(max(2, config.points // POINTS_PER_HUB), 2 + round(HUBS_PER_LINE * config.lines))
    hubs = _spread_points(hub_count, rng)
    hub_graph = _gabriel_graph(hubs)
    hub_lines = _choose_lines(hub_graph, config.lines)

    links = sorted({(min(pair), max(pair)) for line in hub_lines for pair in pairwise(line)})
    used_hubs = sorted({hub for link in links for hub in link})
    number = {hub: index for index, hub in enumerate(used_hubs)}
    between = _share_out(config.points - len(used_hubs), np.array([hub_graph.edges[link]["weight"] for link in links]))

    positions = [hubs[used_hubs]]
    chain: dict[tuple[int, int], list[int]] = {}
    placed = len(used_hubs)
    for (start, end), count in zip(links, between, strict=True):
        inner = list(range(placed, placed + count))
        placed += count
        positions.append(_along_link(hubs[start], hubs[end], count, rng))
        chain[start, end] = [number[start], *inner]
        chain[end, start] = [number[end], *reversed(inner)]
    xy = np.concatenate(positions)
    lines = [[point for pair in pairwise(line) for point in chain[pair]] + [number[line[-1]]] for line in hub_lines]

    sections = sorted({pair for line in lines for way in (line, line[::-1]) for pair in pairwise(way)})
    ends = np.array(sections)
    is_hub = np.arange(len(xy)) < len(used_hubs)
    return Railway(
        x_km=xy[:, 0],
        y_km=xy[:, 1],
        is_hub=is_hub,
        is_junction=~is_hub & (rng.random(len(xy)) < JUNCTION_SHARE),
        lines=lines,
        section={pair: index for index, pair in enumerate(sections)},
        length_km=np.maximum(0.8, np.hypot(*(xy[ends[:, 0]] - xy[ends[:, 1]]).T)),
    )


def _spread_points(count: int, rng: np.random.Generator) -> Array:
    """Return random, well-spread points (count, 2) in km around the origin. Each is the farthest of 12 candidates."""
    side = HUB_SPACING_KM * np.sqrt(count)
    points = rng.uniform(-side / 2, side / 2, (1, 2))
    for _ in range(count - 1):
        candidates = rng.uniform(-side / 2, side / 2, (12, 2))
        distance = np.hypot(*(candidates[:, None] - points[None]).transpose(2, 0, 1)).min(axis=1)
        points = np.vstack([points, candidates[distance.argmax()]])
    return points


def _gabriel_graph(points: Array) -> nx.Graph:
    """Return the Gabriel graph: two points are linked if no other point is in the circle whose diameter joins them.

    The graph is planar and connected.
    """
    graph = nx.Graph()
    graph.add_nodes_from(range(len(points)))
    if len(points) < 4:  # too few to triangulate
        pairs = {(index, index + 1) for index in range(len(points) - 1)}
    else:
        triangles = np.sort(Delaunay(points).simplices, axis=1)
        pairs = {(int(t[i]), int(t[j])) for t in triangles for i, j in ((0, 1), (0, 2), (1, 2))}
    for a, b in sorted(pairs):
        middle, radius = (points[a] + points[b]) / 2, np.hypot(*(points[a] - points[b])) / 2
        if np.hypot(*(points - middle).T).min() >= radius * (1 - 1e-9):
            graph.add_edge(a, b, weight=2 * radius)
    return graph


def _choose_lines(graph: nx.Graph, count: int) -> list[list[int]]:
    """Choose shortest paths that cover as many links as possible. Further lines run over the least used links."""
    paths = dict(nx.all_pairs_dijkstra_path(graph, cutoff=3 * HUB_SPACING_KM))
    candidates = [paths[a][b] for a in sorted(paths) for b in sorted(paths[a]) if a < b]
    longest = max(len(path) for path in candidates) - 1
    candidates = [path for path in candidates if len(path) > min(LINE_LINKS, longest)]
    link_number = {tuple(sorted(link)): index for index, link in enumerate(graph.edges)}
    links = [[link_number[tuple(sorted(pair))] for pair in pairwise(path)] for path in candidates]
    length = np.array([len(path) for path in links])
    runs_over = csr_array(
        (np.ones(length.sum()), (np.repeat(np.arange(len(links)), length), np.concatenate(links))),
        shape=(len(links), len(link_number)),
    )
    used, times_chosen = np.zeros(len(link_number)), np.zeros(len(links))
    lines = []
    for _ in range(count):
        # Lowest mean use of the links first, then the longest path. A path is repeated only if no other is left.
        best = int(np.argmin(1e6 * times_chosen + runs_over @ used / length - 1e-3 * length))
        times_chosen[best] += 1
        used[links[best]] += 1
        lines.append(candidates[best])
    return lines


def _share_out(total: int, weights: Array) -> list[int]:
    """Split `total` into whole numbers in proportion to `weights` (largest remainder)."""
    exact = total * weights / weights.sum()
    whole = np.floor(exact).astype(int)
    whole[np.argsort(whole - exact, kind="stable")[: total - whole.sum()]] += 1
    return [int(count) for count in whole]


def _along_link(start: Array, end: Array, count: int, rng: np.random.Generator) -> Array:
    """Return points (count, 2) from `start` to `end`, unevenly spaced and near the straight line."""
    if not count:
        return np.empty((0, 2))
    share = (np.arange(1, count + 1) + rng.uniform(-0.3, 0.3, count)) / (count + 1)
    across = np.array([start[1] - end[1], end[0] - start[0]]) * rng.normal(0, 0.03, count)[:, None]
    return np.asarray(start + share[:, None] * (end - start) + across)
