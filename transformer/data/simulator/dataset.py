"""Simulated event tables: the sample data of `make train`, of the tests and of the benchmarks.

`railway` lays out points and lines, `timetable` plans the journeys, `disturbances` draws faults and incidents,
`traffic` runs the trains of a service date, and `records` makes the event tables. This module writes the tables. The
folder appears only when it is complete.
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

from transformer.data.input_tables import TABLES
from transformer.data.simulator.disturbances import draw_disturbances, draw_habits
from transformer.data.simulator.railway import build_railway
from transformer.data.simulator.records import event_table, journey_attributes, rotation_table
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
from transformer.parquet import write_parquet

RECORD = "simulation.json"
ROTATIONS = TABLES["rotation"].file
OWN_PATHS = r"simulation\.json|op_nodes\.parquet|journeys\.parquet|rotations\.parquet|events(/events_[\d-]+\.parquet)?"
FORMAT = 1  # raise it if equal settings no longer give equal tables
SATURDAY = 5
RAILWAY_STREAM, TIMETABLE_STREAM, HABIT_STREAM, DATE_STREAM = range(4)  # independent random streams of one seed


def simulate(
    folder: Path,
    config: SimulationConfig,
    progress: Callable[[str], None] | None = None,
    overwrite: bool = False,
    rotations: bool = False,
) -> dict[str, int | str]:
    """Write simulated event tables to `folder`, or reuse those of an earlier simulation with the same settings.

    An earlier simulation with other settings is replaced. Any other content is kept. A service date depends on the seed
    and the date only, so a longer simulation begins with the same events as a shorter one.

    Args:
        folder: folder of the event tables; it appears only when it is complete.
        progress: called with one line for each step.
        overwrite: also replace event tables that no simulation wrote. Files of any other kind are never removed.
        rotations: also write the table of the input `rotation`. The event tables are the same with and without it.

    Returns:
        `folder`, `status` (`created` or `reused`) and the counts `service_dates`, `points`, `journeys`, `events`.

    Raises:
        UserError: `folder` holds other files, or there are too few lines for the journeys.
    """
    tell = progress or (lambda _: None)
    settings: dict[str, Any] = {"format": FORMAT, "config": dataclasses.asdict(config)}
    if rotations:
        settings["rotations"] = True
    earlier = _earlier(folder, overwrite)
    if (
        earlier is not None
        and {key: earlier.get(key) for key in settings} == settings
        and _complete(folder, config, rotations)
    ):
        tell(f"{folder} already holds this simulation: reused")
        return {"folder": str(folder), "status": "reused", **earlier["counts"]}
    if earlier is not None:
        tell(f"{folder} holds a simulation with other settings: replaced")

    with _new_folder(folder) as temporary:
        counts = _write_tables(temporary, config, tell, rotations)
        write_json(temporary / RECORD, {**settings, "counts": counts})
    return {"folder": str(folder), "status": "created", **counts}


def _write_tables(
    folder: Path, config: SimulationConfig, tell: Callable[[str], None], rotations: bool
) -> dict[str, int]:
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
    journeys, turned, events_count = [], [], 0
    for number, day in enumerate(dates, start=1):
        rng = np.random.default_rng([config.seed, DATE_STREAM, day.toordinal()])
        plan, usual = plans[day.weekday() >= SATURDAY]
        disturbances = draw_disturbances(plan.timetable, usual, railway, config, rng)
        played = play(plan, disturbances, config)
        events = event_table(plan.timetable, played, railway, day, config=config, rng=rng)
        write_events(folder, day, events)
        journeys.append(journeys_from_events(events, journey_attributes(plan.timetable, railway, day)))
        turned.append(rotation_table(plan.timetable, plan.next_journey, day))
        events_count += len(events)
        tell(f"{day}: {len(journeys[-1]):,} journeys, {len(events):,} events ({number}/{len(dates)})")
    write_journeys(folder, pl.concat(journeys))
    if rotations:
        write_parquet(folder / ROTATIONS, pl.concat(turned))
    return {
        "service_dates": len(dates),
        "points": config.points,
        "journeys": sum(len(frame) for frame in journeys),
        "events": events_count,
    }


def _earlier(folder: Path, overwrite: bool) -> dict[str, Any] | None:
    """Return the record of the simulation in `folder`, or None if `folder` holds no simulation.

    Raises:
        UserError: the folder holds files that must not be removed.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder")
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    foreign = sorted(path for path in held if not re.fullmatch(OWN_PATHS, path))
    if foreign:
        raise UserError(f"{folder} holds {foreign[0]!r}, which no simulation wrote; name another folder")
    if RECORD in held:
        record = read_json(folder / RECORD)
        return record if isinstance(record, dict) else {}
    if held and not overwrite:
        raise UserError(f"{folder} holds event tables that no simulation wrote; name another folder or use --overwrite")
    return None


def _complete(folder: Path, config: SimulationConfig, rotations: bool) -> bool:
    wanted = [op_nodes_path(folder), journeys_path(folder), *(events_path(folder, day) for day in config.dates())]
    wanted += [folder / ROTATIONS] if rotations else []
    return all(path.is_file() for path in wanted)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder. At the end of the block it replaces `folder`; after an error it is removed."""
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
