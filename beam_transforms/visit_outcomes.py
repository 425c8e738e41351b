"""What came of the visit that an impression led to: the part that `sliver` and `first_only` share."""

import dataclasses

import numpy as np

from beam_transforms.room_actions import NEVER_MS, RoomActions, watch_ms, within_ms
from beam_transforms.schema import EventKind, Task


@dataclasses.dataclass(frozen=True)
class VisitOutcomes:
    """When each label of each impression becomes known; `NEVER_MS` where it doesn't. One of a pair at most does.

    Attributes:
        positive_ms: int64 (B, K).
        negative_ms: int64 (B, K).
        action_ms: int64 (B, K), time of the action that makes the label positive; with `watch_s` that of the entry.
    """

    positive_ms: np.ndarray
    negative_ms: np.ndarray
    action_ms: np.ndarray


def visit_outcomes(
    actions: RoomActions, tasks: tuple[Task, ...], step_ms: int, horizon_ms: int, label_unclicked: bool
) -> VisitOutcomes:
    """Labels of visits, decided at the end of steps that are counted from the impression.

    The impression at t is over at the end of the step in which one of these happens, whichever is first:

    - the user leaves: the first LEAVE at or after t or, once the user has entered, at or after the entry;
    - without an entry: the room is shown to the user again;
    - the horizon, t + horizon_ms, is reached: for who never leaves, and for who never comes.

    An action counts if it falls in [t, end), before the next impression of the room. Of entries the first one counts,
    and watch time is that of its visit. So a re-entry belongs to no impression, unless another one led to it or it
    happens in the very step of the exit. An impression with an entry lasts until the exit even if the room is shown
    again meanwhile; the actions from then on are the next impression's. A task with `within_s` is decided when these
    seconds are over at the latest, clicked or not.

    Args:
        actions: Of B impressions.
        tasks: K tasks.
        step_ms: Length of a step; 1 means at once.
        horizon_ms: A multiple of `step_ms`.
        label_unclicked: Whether tasks other than ENTER become negative if the user never entered.
    """
    start, end = actions.start, actions.start + horizon_ms

    def step_end(times: np.ndarray) -> np.ndarray:
        return start - (start - times) // step_ms * step_ms

    exit_known = step_end(np.minimum(actions.first(EventKind.LEAVE, start), end - 1) + 1)
    shown_again_known = step_end(np.minimum(actions.next_impression, end - 1) + 1)
    clicked = actions.entry < np.minimum(actions.next_impression, exit_known)
    after_entry = step_end(np.minimum(actions.leave, end - 1) + 1)
    over = np.where(clicked, after_entry, np.minimum(exit_known, shown_again_known))

    shape = (len(start), len(tasks))
    positive, negative, action = np.full(shape, NEVER_MS), np.full(shape, NEVER_MS), np.full(shape, NEVER_MS)
    for column, task in enumerate(tasks):
        decided = over
        if task.watch_s is not None:
            action_ms, known = actions.entry, np.where(clicked, actions.entry, 0) + watch_ms(task)
            acted = clicked & (known <= actions.leave) & (known <= end)
        else:
            action_ms = actions.first(task.kind, start)
            acted = action_ms < np.minimum(over, actions.next_impression)
            if task.within_s is not None:
                acted &= action_ms < start + within_ms(task)
                decided = np.minimum(over, step_end(start + within_ms(task)))
            known = np.where(acted, action_ms, 0) + 1
        can_be_negative = ~acted
        if task.watch_s is not None or (task.within_s is None and task.kind != EventKind.ENTER):
            can_be_negative &= clicked | label_unclicked
        positive[acted, column] = step_end(known)[acted]
        action[acted, column] = action_ms[acted]
        negative[can_be_negative, column] = decided[can_be_negative]
    return VisitOutcomes(positive, negative, action)
