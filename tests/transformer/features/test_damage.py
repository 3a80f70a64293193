"""A damaged feed to learn from: what it loses, what it keeps, and which snapshots see it."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tables import read_table
from transformer.config import Config, with_values
from transformer.data.dates import Split, available_dates
from transformer.data.event_table import NEVER, EventTable
from transformer.features.damage import MOST_FROZEN_S, MOST_LATE_S, Damage, _silent_lines
from transformer.features.dated import DatedSnapshots
from transformer.features.history import History
from transformer.features.instants import training_instants
from transformer.features.reading import obtain_readings
from transformer.features.statistics import Statistics, compute_statistics
from transformer.training.datamodule import SnapshotDataModule

REPORTS = {"reported", "arrived", "heard", "news_key", "news_last", "news_begin", "news_end", "known"}
NOBODY = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def statistics(small_config: Config) -> Statistics:
    return compute_statistics(small_config.data, available_dates(Path(small_config.data.local_folder))[:2])


@pytest.fixture(scope="module")
def table(small_config: Config, statistics: Statistics) -> EventTable:
    days = available_dates(Path(small_config.data.local_folder))[:1]
    return read_table(small_config.data, days, statistics.vocabulary).table


def test_the_same_reports_make_the_same_table(table: EventTable):
    again = table.with_reports(table.reported, table.arrived)
    for column in fields(EventTable):
        np.testing.assert_array_equal(getattr(again, column.name), getattr(table, column.name), err_msg=column.name)


def test_reports_are_lost_or_late_and_nothing_else_changes(table: EventTable):
    shares = []
    for number in range(20):
        damaged = Damage(NOBODY, [1, 2]).table(table, number)
        for column in fields(EventTable):
            if column.name not in REPORTS:
                assert getattr(damaged, column.name) is getattr(table, column.name)
        kept, seen = damaged.reported < NEVER, table.reported < NEVER
        assert not (kept & ~seen).any()
        assert (damaged.reported[kept] == table.reported[kept]).all()
        late = damaged.arrived[kept] - table.arrived[kept]
        assert late.min() >= 0 and late.max() <= MOST_LATE_S + MOST_FROZEN_S
        assert (damaged.arrived[~kept] == NEVER).all()
        assert (damaged.heard <= kept).all()
        shares.append(1 - kept.sum() / seen.sum())
    assert min(shares) < 0.15 and 0.3 < max(shares) < 0.6


def test_each_date_and_epoch_has_damage_of_its_own_and_a_repetition_the_same(table: EventTable):
    def arrivals(seed: list[int], number: int) -> bytes:
        return bytes(Damage(NOBODY, seed).table(table, number).arrived)

    assert arrivals([1, 2], 0) == arrivals([1, 2], 0)
    assert len({arrivals(seed, number) for seed in ([1, 2], [1, 3], [2, 2]) for number in (0, 1)}) == 6


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2])
def test_lines_are_silent_until_a_share_is_lost(table: EventTable, share: float):
    lost = _silent_lines(table, share, np.random.default_rng(7))
    seen = table.reported < NEVER
    assert not (lost & ~seen).any()
    assert share <= lost.sum() / seen.sum() <= share + 0.15
    assert lost.any() == (share > 0)


def test_only_chosen_snapshots_see_the_damage(small_config: Config, statistics: Statistics, tmp_path: Path):
    days, data = available_dates(Path(small_config.data.local_folder))[:2], small_config.data
    instants = training_instants(days, 16, data, np.random.default_rng(5))
    hit = instants[::3]

    def build(damage: Damage | None):
        readings = obtain_readings(data, days, tmp_path)
        history = History(statistics, data.statistics)
        return DatedSnapshots(readings, statistics.vocabulary, history, data, damage=damage).build(instants)

    whole, damaged = build(None), build(Damage(hit, [3]))
    observed = {}
    for batch in (whole, damaged):
        for b, s, f in np.argwhere(batch.label_mask):
            observed.setdefault(int(batch.next_event[b, s, f]), set()).add(float(batch.label[b, s, f]))
    assert all(len(labels) == 1 for labels in observed.values())
    differ = [
        not np.array_equal(whole.translation[b][whole.train_mask[b]], damaged.translation[b][damaged.train_mask[b]])
        for b in range(len(instants))
    ]
    assert not any(np.array(differ)[~np.isin(instants, hit)])
    assert sum(differ) >= len(hit) - 1


def test_an_epoch_damages_the_configured_share(small_config: Config, statistics: Statistics):
    days = available_dates(Path(small_config.data.local_folder))
    split = Split(train=days[:2], validation=days[2:3], test=[])

    def epoch(**values: object) -> tuple[np.ndarray, np.ndarray]:
        config = with_values(small_config, {f"training.{key}": value for key, value in values.items()}, "test")
        module = SnapshotDataModule(config, split, statistics)
        module.setup("fit")
        loader = module.train_dataloader()
        damage = module.builders["train"]._damage
        return loader.dataset.instants, damage.instants if damage else NOBODY

    instants, hit = epoch(**{"sampling.damaged": 0.25, "snapshots_per_epoch": 64})
    assert len(hit) == 16 and np.isin(hit, instants).all()
    same, nobody = epoch(**{"snapshots_per_epoch": 64})
    assert (same == instants).all() and not len(nobody)
    assert not len(epoch(**{"sampling.damaged": 0.25, "overfit_batches": 1})[1])  # it repeats the same batches
