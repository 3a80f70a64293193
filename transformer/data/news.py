"""The news of a journey: the events that are known to have happened, after each observation that arrives.

At an instant, only the observations known by then decide which of them is wrong. The rule is that of `time_order`: the
heaviest chain that never runs backwards. A later observation can therefore put an earlier one in the wrong, and the
train is then taken for an earlier event than before. An observation may become known after a later one of its journey;
from then on it has its place among the known events.

Legend of dimensions: E events, N observations (news), K known events, V journeys with an impossible order, or with
observations that became known in another order; n observations of the longest of these.
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
    """Each observation in the order of its journey and of the times at which it is known, and the known events then."""

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
    heard: BoolArray  # [N] the observation is among the known events after it
    first: tuple[Int64Array, Int64Array, Int64Array]  # number, place and event of the events with which lists begin


def news_of(reported: Int64Array, arrived: Int64Array, planned: Int64Array, journey: Int64Array, never: int) -> News:
    """The news of every journey of a table.

    Args:
        reported: observed time of each event [E], seconds; `never` where there is none.
        arrived: time at which each observation is known [E], not before it.
        planned: planned time of each event [E], seconds.
        journey: number of the journey of each event [E], non-decreasing.
    """
    observed = np.flatnonzero(reported < never)
    event = observed[np.lexsort((observed, reported[observed], arrived[observed], journey[observed]))]
    of = journey[event]
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    rank = np.arange(len(event)) - np.repeat(starts, np.diff(np.append(starts, len(event))))
    none = np.zeros(0, np.int64)
    everything = np.ones(len(event), np.bool_)
    lists = _Lists(of.astype(np.int64), rank + 1, event.copy(), everything, (none, none, none))
    time = reported[event]
    later = np.diff(time, prepend=0)
    # If two observations have the same time, the event that comes first in the journey was made first.
    overtaken = (rank > 0) & ((later < 0) | (later == 0) & (np.diff(event, prepend=-1) < 0))
    odd = np.isin(of, of[(rank > 0) & (np.diff(event, prepend=-1) < 0) | overtaken])
    if odd.any():
        late = np.isin(of, of[overtaken])
        lists = _with_odd_journeys(lists, event, of, rank, odd, late, reported, reported == planned)
    grown = np.flatnonzero(lists.last == event)
    number = np.concatenate([lists.first[0], lists.number[grown]])
    place = np.concatenate([lists.first[1], lists.length[grown] - 1])
    known = np.concatenate([lists.first[2], event[grown]])[np.lexsort((place, number))]
    begins = np.searchsorted(np.sort(number), lists.number)
    heard = np.zeros(len(reported), np.bool_)
    heard[event[lists.heard]] = True
    return News(event, lists.last, begins, begins + lists.length, known, heard)


def _with_odd_journeys(
    lists: _Lists,
    event: Int64Array,
    of: Int64Array,
    rank: Int64Array,
    odd: BoolArray,
    late: BoolArray,
    reported: Int64Array,
    on_plan: BoolArray,
) -> _Lists:
    """Replace the lists of journeys whose observations contradict each other, or arrived in another order (`late`)."""
    rows = np.flatnonzero(odd)
    sizes = np.bincount(of[rows])
    size = 2 * np.ceil(np.log2(np.maximum(sizes, 1)))[of[rows]] + late[rows]
    next_number = int(of.max(initial=0)) + 1
    firsts = [lists.first]
    for group in np.unique(size):  # journeys of similar length are padded together
        here = rows[size == group]
        journeys, line = np.unique(of[here], return_inverse=True)
        shape = (len(journeys), int(rank[here].max()) + 1)
        events = np.full(shape, -1)
        events[line, rank[here]] = event[here]
        if late[here[0]]:
            number, length, last, heard, first = _late_lists(events, reported, on_plan)
        else:
            number, length, last, first, _ = _chains(events, on_plan[events] & (events >= 0))
            heard = last == events
        # List 0 of a journey keeps the journey's number; the others get numbers of their own.
        own = np.where(number == 0, journeys[:, None], next_number + number - 1 + _offsets(number)[:, None])
        lists.number[here] = own[line, rank[here]]
        lists.length[here], lists.last[here] = length[line, rank[here]], last[line, rank[here]]
        lists.heard[here] = heard[line, rank[here]]
        of_list = next_number + first[1] - 1 + _offsets(number)[first[0]]
        firsts.append((of_list, first[2], first[3]))
        next_number += int(number.max(axis=1, initial=0).sum())
    joined = tuple(np.concatenate(parts) for parts in zip(*firsts, strict=True))
    return _Lists(lists.number, lists.length, lists.last, lists.heard, joined)  # type: ignore[arg-type]


def _offsets(number: Int64Array) -> Int64Array:
    """Numbers of lists in the journeys before each one."""
    counts = number.max(axis=1, initial=0)
    return np.asarray(np.cumsum(counts) - counts, np.int64)


def _late_lists(
    events: Int64Array, reported: Int64Array, on_plan: BoolArray
) -> tuple[Int64Array, Int64Array, Int64Array, BoolArray, tuple[Int64Array, ...]]:
    """The lists of V journeys whose observations arrived in another order than they were made.

    Args:
        events: observed events [V, n] in the order in which they arrived; -1 = padding at the end.

    Returns:
        As `_chains`, with `_Lists.heard` [V, n] before the last.
    """
    n = events.shape[1]
    time = np.where(events >= 0, reported[events], np.iinfo(np.int64).max)
    arrival = np.lexsort((events, time), axis=1)
    made = np.take_along_axis(events, arrival, axis=1)  # the events in the order of their times
    known_VNn = _members(made, arrival, on_plan[made] & (made >= 0))
    before_VNn = np.concatenate([np.zeros_like(known_VNn[:, :1]), known_VNn[:, :-1]], axis=1)
    at_end = n - 1 - np.argmax(known_VNn[:, :, ::-1], axis=2)
    last, length = np.take_along_axis(made, at_end, axis=1), known_VNn.sum(axis=2)
    without_end_VNn = known_VNn & (np.arange(n) != at_end[:, :, None])
    grows = (last == events) & (without_end_VNn == before_VNn).all(axis=2)
    rewritten = ~grows & (known_VNn != before_VNn).any(axis=2)
    number = np.cumsum(rewritten, axis=1)
    # As in `_chains`, the event that has just arrived joins by itself if it is the end.
    begin_VNn = np.where((last == events)[:, :, None], without_end_VNn, known_VNn) & rewritten[:, :, None]
    row, step, place = np.nonzero(begin_VNn)
    key = row * n + step
    order = np.arange(len(key)) - np.searchsorted(key, key)
    heard = np.take_along_axis(known_VNn, np.argsort(arrival, axis=1)[:, :, None], axis=2)[:, :, 0]
    return number, length, last, heard, (row, number[row, step], order, made[row, place])


def _members(made: Int64Array, arrival: Int64Array, on_plan: BoolArray) -> BoolArray:
    """The known events [V, n arrivals, n] among the events `made` [V, n], after each arrival.

    Args:
        made: observed events in the order of their times; -1 = padding at the end.
        arrival: the position of each among the arrivals [V, n].
        on_plan: the observation equals the plan [V, n].
    """
    n = made.shape[1]
    known = (arrival[:, None, :] <= np.arange(n)[:, None]) & (made >= 0)[:, None, :]
    clash = np.flatnonzero(((np.diff(made, axis=1) < 0) & (made[:, 1:] >= 0)).any(axis=1))
    for step in range(n) if len(clash) else ():
        arrived = known[clash, step]
        order = np.argsort(~arrived, axis=1, kind="stable")[:, : step + 1]
        real = np.take_along_axis(arrived, order, axis=1)
        events = np.where(real, np.take_along_axis(made[clash], order, axis=1), -1)
        *_, member = _chains(events, np.take_along_axis(on_plan[clash], order, axis=1) & real)
        chosen = np.zeros_like(arrived)
        np.put_along_axis(chosen, order, member, axis=1)
        known[clash, step] = chosen
    return known


def _chains(
    events: Int64Array, on_plan: BoolArray
) -> tuple[Int64Array, Int64Array, Int64Array, tuple[Int64Array, ...], BoolArray]:
    """The heaviest chain after each observation, for V journeys at once. The loop runs over the observations.

    Args:
        events: observed events [V, n] in the order of their times; -1 = padding at the end.
        on_plan: the observation equals the plan [V, n].

    Returns:
        List number, length of the list, and its last event [V, n]; row, list number, place and event of the events
        with which the lists after the first begin; and the members of the last chain [V, n].
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
    return number, length, last, tuple(joined), member


def _backtracked(previous: Int64Array, end: Int64Array) -> BoolArray:
    member = np.zeros(previous.shape, np.bool_)
    at = end.copy()
    while (at >= 0).any():
        going = np.flatnonzero(at >= 0)
        member[going, at[going]] = True
        at[going] = previous[going, at[going]]
    return member
