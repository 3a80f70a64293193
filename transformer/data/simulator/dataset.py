"""A railway that does not exist: the sample data of `make train`, of the tests and of scale measurements.

`railway` lays out points and lines, `timetable` plans the journeys, `disturbances` draws what goes wrong, `traffic`
plays a service date, `records` says what is observed of it. This module writes it all: completely, or not at all.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from transformer.data.simulator.disturbances import draw_disturbances, draw_habits
from transformer.data.simulator.railway import build_railway
from transformer.data.simulator.records import event_table, journey_attributes
from transformer.data.simulator.settings import SimulationConfig
from transformer.data.simulator.timetable import build_timetable
from transformer.data.simulator.traffic import make_plan, play
from transformer.data.tables import (
    events_path,
    journeys_from_events,
    journeys_path,
    op_nodes_path,
    write_events,
    write_journeys,
    write_op_nodes,
)
from transformer.errors import UserError
from transformer.files import read_json, write_json

RECORD = "simulation.json"
OWN_PATHS = r"simulation\.json|op_nodes\.parquet|journeys\.parquet|events(/events_[\d-]+\.parquet)?"
FORMAT = 1  # raise it when equal settings no longer give equal tables
SATURDAY = 5
RAILWAY_STREAM, TIMETABLE_STREAM, HABIT_STREAM, DATE_STREAM = range(4)  # independent random streams of one seed


def simulate(
    folder: Path,
    config: SimulationConfig,
    progress: Callable[[str], None] | None = None,
    overwrite: bool = False,
) -> dict[str, int | str]:
    """Write a simulated data set in the Silver format to `folder`, or reuse the one with the same settings there.

    An earlier simulation with other settings is replaced; any other content is kept. Each service date is drawn from
    the seed and its date alone, so that a longer simulation begins with the shorter one's events.

    Args:
        folder: appears only when it is complete.
        progress: called with one line for each step worth telling.
        overwrite: also replace event tables that no simulation wrote. Files of any other kind are never removed.

    Returns:
        `folder`, `status` (`created` or `reused`) and the counts `service_dates`, `points`, `journeys`, `events`.

    Raises:
        UserError: `folder` holds something else, or the lines cannot carry the journeys.
    """
    tell = progress or (lambda _: None)
    settings = {"format": FORMAT, "config": dataclasses.asdict(config)}
    earlier = _earlier(folder, overwrite)
    if earlier is not None and {key: earlier.get(key) for key in settings} == settings and _complete(folder, config):
        tell(f"{folder} holds this simulation already: reused")
        return {"folder": str(folder), "status": "reused", **earlier["counts"]}
    if earlier is not None:
        tell(f"{folder} holds a simulation with other settings: replaced")

    with _new_folder(folder) as temporary:
        counts = _write_tables(temporary, config, tell)
        write_json(temporary / RECORD, {**settings, "counts": counts})
    return {"folder": str(folder), "status": "created", **counts}


def _write_tables(folder: Path, config: SimulationConfig, tell: Callable[[str], None]) -> dict[str, int]:
    railway = build_railway(config, np.random.default_rng([config.seed, RAILWAY_STREAM]))
    timetable = build_timetable(railway, config, np.random.default_rng([config.seed, TIMETABLE_STREAM]))
    habits = draw_habits(timetable, railway, config, np.random.default_rng([config.seed, HABIT_STREAM]))
    write_op_nodes(folder, railway.op_nodes(config))

    every_day = np.ones_like(timetable.weekend)
    runs = {False: every_day, True: timetable.weekend}
    plans = {
        weekend: (make_plan(timetable.select(running), railway, config), habits.select(running, timetable))
        for weekend, running in runs.items()
    }
    dates = config.dates()
    journeys, events_count = [], 0
    for number, day in enumerate(dates, start=1):
        rng = np.random.default_rng([config.seed, DATE_STREAM, day.toordinal()])
        plan, usual = plans[day.weekday() >= SATURDAY]
        disturbances = draw_disturbances(plan.timetable, usual, railway, config, rng)
        played = play(plan, disturbances, config)
        events = event_table(plan.timetable, played, railway, day, config=config, rng=rng)
        write_events(folder, day, events)
        journeys.append(journeys_from_events(events, journey_attributes(plan.timetable, railway, day)))
        events_count += len(events)
        tell(f"{day}: {len(journeys[-1]):,} journeys, {len(events):,} events ({number}/{len(dates)})")
    write_journeys(folder, pl.concat(journeys))
    return {
        "service_dates": len(dates),
        "points": config.points,
        "journeys": sum(len(frame) for frame in journeys),
        "events": events_count,
    }


def _earlier(folder: Path, overwrite: bool) -> dict[str, Any] | None:
    """The record of the simulation in `folder`; None when the folder may be filled.

    Raises:
        UserError: when it holds anything that must not be lost.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder")
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    foreign = sorted(path for path in held if not re.fullmatch(OWN_PATHS, path))
    if foreign:
        raise UserError(f"{folder} holds {foreign[0]!r}, which no simulation wrote; give another folder")
    if RECORD in held:
        record = read_json(folder / RECORD)
        return record if isinstance(record, dict) else {}
    if held and not overwrite:
        raise UserError(f"{folder} holds event tables that no simulation wrote; give another folder or overwrite them")
    return None


def _complete(folder: Path, config: SimulationConfig) -> bool:
    wanted = [op_nodes_path(folder), journeys_path(folder), *(events_path(folder, day) for day in config.dates())]
    return all(path.is_file() for path in wanted)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; put it in its place when the block ends well, else remove it."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}.{uuid.uuid4().hex[:8]}"
    temporary, old = folder.with_name(f".{folder.name}.{mark}.tmp"), folder.with_name(f".{folder.name}.{mark}.old")
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
