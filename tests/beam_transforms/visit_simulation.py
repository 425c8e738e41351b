"""The rules of `sliver` and `first_only` told again the slow way: one impression, one moment after the other."""

import numpy as np

from beam_transforms.columnar import Columns
from beam_transforms.schema import EventKind, Task


def simulate_visit(
    events: Columns, impressions: Columns, row: int, task: Task, ends: list[int], horizon_ms: int, label_unclicked: bool
) -> tuple[int, int, int] | None:
    """(time of emission, label, time of the action or the entry) of one pair; None if it is never labelled.

    `ends` are the times after the impression, ascending, at which something may be emitted; the last is the horizon.
    """
    start = int(impressions["timestamp_ms"][row])
    same = (impressions["user_id"] == impressions["user_id"][row]) & (
        impressions["live_id"] == impressions["live_id"][row]
    )
    later = impressions["timestamp_ms"][same & (impressions["timestamp_ms"] > start)]
    shown_again = int(later.min()) if len(later) else None
    happened = pair_events(events, int(impressions["user_id"][row]), int(impressions["live_id"][row]))
    assert ends[-1] == start + horizon_ms
    for end in ends:
        past = [(kind, time) for kind, time in happened if start <= time < end]
        own = [(kind, time) for kind, time in past if shown_again is None or time < shown_again]
        entries = [time for kind, time in own if kind == EventKind.ENTER]
        clicked = bool(entries)
        if task.watch_s is not None:
            if clicked:
                reached = min(entries) + round(task.watch_s * 1000)
                left_before = any(kind == EventKind.LEAVE and min(entries) <= time < reached for kind, time in past)
                if reached <= end and not left_before:
                    return end, 1, min(entries)
        else:
            limit = end if task.within_s is None else start + round(task.within_s * 1000)
            actions = [time for kind, time in own if kind == task.kind and time < limit]
            if actions:
                return end, 1, min(actions)
        since = min(entries) if clicked else start
        over = any(kind == EventKind.LEAVE and time >= since for kind, time in past) or end == ends[-1]
        over |= not clicked and shown_again is not None and shown_again < end
        decided = task.within_s is not None and start + round(task.within_s * 1000) <= end
        if over or decided:
            always = task.kind == EventKind.ENTER or task.within_s is not None
            return (end, 0, -1) if clicked or always or label_unclicked else None
    raise AssertionError("the last end is over")


def pair_events(events: Columns, user: int, room: int) -> list[tuple[int, int]]:
    rows = np.flatnonzero((events["user_id"] == user) & (events["live_id"] == room))
    return sorted((int(events["kind"][row]), int(events["timestamp_ms"][row])) for row in rows)


def fulfilled_times(events: Columns, user: int, room: int, task: Task) -> list[int]:
    """Times of all actions of one pair, of watch time those of the entries whose visit reached it."""
    happened = pair_events(events, user, room)
    if task.watch_s is None:
        return [time for kind, time in happened if kind == task.kind]
    leaves = [time for kind, time in happened if kind == EventKind.LEAVE]
    length = round(task.watch_s * 1000)
    return [
        time
        for kind, time in happened
        if kind == EventKind.ENTER and not any(time <= leave < time + length for leave in leaves)
    ]
