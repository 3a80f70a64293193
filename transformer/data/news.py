"""The news of a journey: the events that are known to have happened, after each observation that arrives.

At an instant, only the observations up to then decide which of them is wrong. The rule is that of `time_order`: the
heaviest chain that never runs backwards. A later observation can therefore put an earlier one in the wrong, and the
train is then taken for an earlier event than before.

Legend of dimensions: E events, N observations (news), K known events, V journeys with an impossible order, n
observations of the longest of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transformer.data.time_order import MEASURED, ON_PLAN

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class News:
    """Each observation in the order of its journey and its time, and the known events after it."""

    event: Int64Array  # [N] the observed event
    last: Int64Array  # [N] the last known event
    begin: Int64Array  # [N] the known events are `known[begin:end]`, in their order
    end: Int64Array  # [N]
    known: Int64Array  # [K]
    heard: BoolArray  # [E] the observation of the event was right by all that was known when it arrived


@dataclass(frozen=True)
class _Lists:
    """Lists of known events that only grow. A list begins anew where more changes than one event at its end."""

    number: Int64Array  # [N] the list after each observation
    length: Int64Array  # [N] its length then
    last: Int64Array  # [N]
    first: tuple[Int64Array, Int64Array, Int64Array]  # number, place and event of the events with which lists begin


def news_of(reported: Int64Array, planned: Int64Array, journey: Int64Array, never: int) -> News:
    """The news of every journey of a table.

    Args:
        reported: observed time of each event [E], seconds; `never` where there is none.
        planned: planned time of each event [E], seconds.
        journey: number of the journey of each event [E], non-decreasing.
    """
    observed = np.flatnonzero(reported < never)
    event = observed[np.lexsort((observed, reported[observed], journey[observed]))]
    of = journey[event]
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    rank = np.arange(len(event)) - np.repeat(starts, np.diff(np.append(starts, len(event))))
    none = np.zeros(0, np.int64)
    lists = _Lists(of.astype(np.int64), rank + 1, event.copy(), (none, none, none))
    backwards = np.diff(event, prepend=-1) < 0
    odd = np.isin(of, of[backwards & (rank > 0)])
    if odd.any():
        lists = _with_odd_journeys(lists, event, of, rank, odd, reported == planned)
    grown = np.flatnonzero(lists.last == event)
    number = np.concatenate([lists.first[0], lists.number[grown]])
    place = np.concatenate([lists.first[1], lists.length[grown] - 1])
    known = np.concatenate([lists.first[2], event[grown]])[np.lexsort((place, number))]
    begins = np.searchsorted(np.sort(number), lists.number)
    heard = np.zeros(len(reported), np.bool_)
    heard[event[grown]] = True
    return News(event, lists.last, begins, begins + lists.length, known, heard)


def _with_odd_journeys(
    lists: _Lists, event: Int64Array, of: Int64Array, rank: Int64Array, odd: BoolArray, on_plan: BoolArray
) -> _Lists:
    """Replace the lists of journeys whose observations contradict each other."""
    rows = np.flatnonzero(odd)
    sizes = np.bincount(of[rows])
    size = np.ceil(np.log2(np.maximum(sizes, 1)))[of[rows]]
    next_number = int(of.max(initial=0)) + 1
    firsts = [lists.first]
    for group in np.unique(size):  # journeys of similar length are padded together
        here = rows[size == group]
        journeys, line = np.unique(of[here], return_inverse=True)
        shape = (len(journeys), int(rank[here].max()) + 1)
        events = np.full(shape, -1)
        events[line, rank[here]] = event[here]
        number, length, last, first = _chains(events, on_plan[events] & (events >= 0))
        # List 0 of a journey keeps the journey's number; the others get numbers of their own.
        own = np.where(number == 0, journeys[:, None], next_number + number - 1 + _offsets(number)[:, None])
        lists.number[here] = own[line, rank[here]]
        lists.length[here], lists.last[here] = length[line, rank[here]], last[line, rank[here]]
        of_list = next_number + first[1] - 1 + _offsets(number)[first[0]]
        firsts.append((of_list, first[2], first[3]))
        next_number += int(number.max(axis=1, initial=0).sum())
    joined = tuple(np.concatenate(parts) for parts in zip(*firsts, strict=True))
    return _Lists(lists.number, lists.length, lists.last, joined)  # type: ignore[arg-type]


def _offsets(number: Int64Array) -> Int64Array:
    """Numbers of lists in the journeys before each one."""
    counts = number.max(axis=1, initial=0)
    return np.asarray(np.cumsum(counts) - counts, np.int64)


def _chains(
    events: Int64Array, on_plan: BoolArray
) -> tuple[Int64Array, Int64Array, Int64Array, tuple[Int64Array, ...]]:
    """The heaviest chain after each observation, for V journeys at once. The loop runs over the observations.

    Args:
        events: observed events [V, n] in the order of their times; -1 = padding at the end.
        on_plan: the observation equals the plan [V, n].

    Returns:
        List number, length of the list, and its last event [V, n]; and row, list number, place and event of the events
        with which the lists after the first begin.
    """
    rows, n = np.arange(len(events)), events.shape[1]
    weight = np.where(on_plan, ON_PLAN, MEASURED)
    total, previous = np.zeros(events.shape, np.int64), np.full(events.shape, -1)
    member, claims = np.zeros(events.shape, np.bool_), np.zeros(events.shape, np.bool_)
    end = np.full(len(events), -1)
    number, length, last = (np.zeros(events.shape, np.int64) for _ in range(3))
    first: list[tuple[Int64Array, ...]] = []
    for at in range(n):
        real = events[:, at] >= 0
        earlier = events[:, :at]
        before = (earlier >= 0) & (earlier < events[:, at : at + 1]) & ~claims[:, :at]
        if at:
            # The neighbour before it in the journey: if that claims the plan, so does this one.
            neighbour = np.argmax(np.where(earlier < events[:, at : at + 1], earlier, -1), axis=1)
            has = (earlier[rows, neighbour] >= 0) & (earlier[rows, neighbour] < events[:, at])
            wrong = claims[rows, neighbour] | (on_plan[rows, neighbour] & ~member[rows, neighbour])
            claims[:, at] = on_plan[:, at] & has & on_plan[rows, neighbour] & wrong
            # Among equally heavy chains, the one with the newest end has the shortest step.
            best = at - 1 - np.argmax(np.where(before, total[:, :at], -1)[:, ::-1], axis=1)
            joins = before[rows, best]
            previous[:, at] = np.where(joins, best, -1)
            total[:, at] = weight[:, at] + np.where(joins, total[rows, best], 0)
        else:
            total[:, at] = weight[:, at]
        total[claims[:, at] | ~real, at] = -1
        heaviest = at - np.argmax(total[:, : at + 1][:, ::-1], axis=1)
        grows = real & (heaviest == at) & (previous[:, at] == end)
        rewritten = real & ~grows & (heaviest != end)
        if at:
            number[:, at], length[:, at] = number[:, at - 1], length[:, at - 1]
        member[grows, at] = True
        length[grows, at] += 1
        if rewritten.any():
            chosen = np.flatnonzero(rewritten)
            member[chosen, : at + 1] = _backtracked(previous[chosen], heaviest[chosen])[:, : at + 1]
            number[chosen, at] += 1
            length[chosen, at] = member[chosen, : at + 1].sum(axis=1)
            # The event that has just arrived joins by itself if it is the end; the others are the beginning.
            which, places = np.nonzero(member[chosen, :at])
            order = np.arange(len(which)) - np.searchsorted(which, which)
            first.append((chosen[which], number[chosen[which], at], order, events[chosen[which], places]))
        end = np.where(real, heaviest, end)
        last[:, at] = events[rows, end]
    joined = [np.concatenate(parts) for parts in zip(*first, strict=True)] if first else [np.zeros(0, np.int64)] * 4
    return number, length, last, tuple(joined)


def _backtracked(previous: Int64Array, end: Int64Array) -> BoolArray:
    member = np.zeros(previous.shape, np.bool_)
    at = end.copy()
    while (at >= 0).any():
        going = np.flatnonzero(at >= 0)
        member[going, at[going]] = True
        at[going] = previous[going, at[going]]
    return member
