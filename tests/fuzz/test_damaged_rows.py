"""Event tables with a known share of damaged rows: the account adds up, and results move by what was damaged only."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import FUZZ
from transformer.config import DataConfig
from transformer.data.event_table import Vocabulary, build_event_table
from transformer.data.events import validated_events
from transformer.data.reasons import ReadingReport
from transformer.data.simulator.dataset import simulate
from transformer.data.simulator.settings import SimulationConfig
from transformer.data.tables import JOURNEY, events_path
from transformer.features.instants import grid_instants
from transformer.features.snapshots import EventFeatures, SnapshotBuilder

pytestmark = pytest.mark.slow

DAY = date(2025, 1, 8)
DATA = DataConfig()
ROW = ["instant", *JOURNEY, "seq"]
# An event is a label at some instants, and the last known event of its train at others. A wrong report also counts
# until another one contradicts it. A random event has an average part in each. The factor leaves room for a larger one.
TOUCHED = 8
MINUTE = timedelta(minutes=1)


def observed(value: pl.Expr) -> list[pl.Expr]:
    return [value.alias("observed_ts"), pl.lit(None, pl.Int32).alias("delay_sec")]


DAMAGE = {
    "observed 45 minutes early": observed(pl.col("observed_ts") - 45 * MINUTE),
    "observed 45 minutes late": observed(pl.col("observed_ts") + 45 * MINUTE),
    "observed as planned": observed(pl.col("planned_ts")),
    "observed days late": observed(pl.col("observed_ts") + 2_880 * MINUTE),
    "not observed": observed(pl.lit(None, pl.Datetime("us", "UTC"))),
    "without train_id": [pl.lit(None, pl.String).alias("train_id")],
    "without op_id": [pl.lit(None, pl.Int32).alias("op_id")],
    "of a strange type": [pl.lit("X").alias("event_type")],
    "of another date": [pl.col("service_date").dt.offset_by("1d")],
    "planned hours too early": [pl.col("planned_ts") - 180 * MINUTE],
    "planned hours too late": [pl.col("planned_ts") + 180 * MINUTE],
    "with a wrong delay_sec": [pl.lit(7, pl.Int32).alias("delay_sec")],
}
TWICE = ("twice", "twice, once not observed", "twice, once of another run")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    settings = SimulationConfig(start_date=DAY.isoformat(), service_dates=1, lines=3, points=24, journeys_per_day=150)
    simulate(folder, settings)
    return pl.read_parquet(events_path(folder, DAY))


def damaged(events: pl.DataFrame, kind: str, rows: pl.Series) -> pl.DataFrame:
    chosen = events.with_row_index("row").with_columns(pl.col("row").is_in(rows.implode()).alias("chosen"))
    if kind.startswith("planned"):  # at an end of the journey, nothing contradicts the time: it is a longer journey
        inside = pl.col("seq").is_between(pl.col("seq").min(), pl.col("seq").max(), closed="none").over(JOURNEY)
        chosen = chosen.with_columns(pl.col("chosen") & inside)
    if kind in TWICE:
        copies = chosen.filter("chosen")
        if kind == TWICE[1]:
            copies = copies.with_columns(*observed(pl.lit(None, pl.Datetime("us", "UTC"))))
        elif kind == TWICE[2]:
            times = pl.col("planned_ts", "observed_ts") + 960 * MINUTE
            copies = copies.with_columns(times)
        # The copies come first, since the first of equals is kept.
        return pl.concat([copies, chosen]).drop("row", "chosen")
    changes = [pl.when("chosen").then(value).otherwise(pl.col(value.meta.output_name())) for value in DAMAGE[kind]]
    return chosen.with_columns(changes).drop("row", "chosen")


def translation_errors(events: pl.DataFrame) -> tuple[pl.DataFrame, ReadingReport]:
    """The error of translation for every label of the grid, and the account of reading."""
    validation = DATA.validation.model_copy(update={"max_dropped_share": 1.0, "max_discarded_share": 1.0})
    valid, report = validated_events(events, Path("events.parquet"), DAY, DATA.timezone, validation)
    types = valid.select(*JOURNEY, pl.lit("").alias("train_type")).unique()
    table = build_event_table(valid, types, Vocabulary(valid["op_id"].unique().sort().to_numpy(), ()))
    first = pl.col("planned_ts").first().over(JOURNEY)
    ordered = valid.sort(first, *JOURNEY, "seq")
    builder = SnapshotBuilder(table, DATA.snapshot, EventFeatures.none(table))
    batch = builder.build(grid_instants((DAY,), DATA.grid, DATA.timezone))
    b, s, f = np.nonzero(batch.label_mask)
    rows = ordered.select(*JOURNEY, "seq")[batch.next_event[b, s, f]]
    error = batch.label[b, s, f] - batch.translation[b, s]
    return rows.with_columns(pl.Series("instant", batch.instant[b]), pl.Series("error", error)), report


def changed_share(before: pl.DataFrame, after: pl.DataFrame) -> float:
    """Number of labels that are gone, new, or have another error, as a share of all."""
    both = before.join(after, on=ROW, how="full", suffix="_after")
    return float((both["error"] != both["error_after"]).fill_null(True).sum() / before.height)


def test_results_move_by_no_more_than_what_was_damaged(sound):
    before, report = translation_errors(sound)
    assert report.adds_up and report.kept == sound.height
    typical, greatest = before["error"].abs().mean(), before["error"].abs().max()
    assert changed_share(before, before) == 0

    @FUZZ
    @given(st.sampled_from([*DAMAGE, *TWICE]), st.sampled_from([0.005, 0.02, 0.05]), st.integers(0, 2**32 - 1))
    def check(kind, share, seed):
        rows = pl.int_range(sound.height, eager=True).sample(fraction=share, seed=seed)
        events = damaged(sound, kind, rows)
        after, found = translation_errors(events)
        assert found.adds_up, found.lines()
        assert found.events == events.height
        moved = changed_share(before, after)
        assert moved <= TOUCHED * share + 0.005, (kind, moved)
        shift = abs(after["error"].abs().mean() - typical)
        limit = moved * max(greatest, after["error"].abs().max())
        assert shift <= limit + 1e-6, (kind, shift)

    check()


@pytest.mark.parametrize("kind", ["observed 45 minutes early", "observed days late", "not observed"])
def test_a_wrong_terminus_of_every_second_train_changes_the_terminus_only(sound, kind):
    """Without the order of observations, a third of the snapshots vanished."""
    numbered = sound.sort(*JOURNEY, "seq").with_row_index("row")
    last = numbered.group_by(JOURNEY, maintain_order=True).agg(pl.col("row").last())["row"]
    before, _ = translation_errors(sound)
    after, report = translation_errors(damaged(numbered.drop("row"), kind, last.gather_every(2)))
    assert report.adds_up
    terminus = numbered.filter(pl.col("row").is_in(last.gather_every(2).implode())).select(*JOURNEY, "seq")
    expected = before.join(terminus, on=[*JOURNEY, "seq"], how="semi").height / before.height
    assert changed_share(before, after) <= expected + 0.02
