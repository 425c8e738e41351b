"""The label policy of Moment&Cross: a positive at once, but only the first one."""

from beam_transforms.columnar import Columns
from beam_transforms.labels import LabelPolicy, Labels, labels_at, require_time_for
from beam_transforms.room_actions import NEVER_MS, RoomActions, watch_ms
from beam_transforms.schema import ROOM_MEMORY_MS, Task
from beam_transforms.visit_outcomes import visit_outcomes


class FirstOnly(LabelPolicy):
    """First-only mask learning: a positive at once, if it is the first one; negatives when the user leaves.

    - An action at e of the user's last impression of the room at or before it is a positive known at e + 1 ms, and
      emitted then; watch time when it reaches `watch_s`. One row a time, mask 1 for its tasks.
    - It is emitted only if it is the first of its (user, room, task): in the `memory_s` before it, the user did the
      same in the room not once, whether or not an impression led to that. The memory is that of a series of one key:
      an action with none of its kind in `memory_s` before it is a first one again.
    - When the user leaves, clicked or not, every task without an action is negative (emitted 1 ms after the exit).
      Who neither leaves nor is shown the room again without having entered counts as gone at t + horizon.
    - A task whose action isn't the first is masked, so an impression and a task have one label at most, and a positive
      never follows a negative.

    Departures and choices where the paper is silent. A task that the pair has done before, within `memory_s` before
    the impression, is masked when the user leaves without doing it again, too: of a repeated impression the positives
    are masked, so negatives alone would teach that it fails. `negatives_after_first=True` emits them. A re-entry after
    the exit belongs to no impression, unless another one led to it. A task with `within_s` is negative as soon as
    these seconds are over. Positives are emitted by the millisecond, not each 30 s: the stream's own windows do that.
    A log that tells only who acted, such as a chat log, has few firsts; `FastWindow` suits it. Details:
    `visit_outcomes`.

    Args:
        horizon_s: Time after which the user counts as having left.
        memory_s: How long an action is remembered.
        negatives_after_first: Whether a task that the pair has done before may become negative.

    Raises:
        ValueError: If the horizon or the memory isn't positive or, when labelling, the horizon is shorter than a task
            needs.

    Reference: Moment&Cross (arXiv:2408.05709), first-only mask learning on the 30-second data stream.
    """

    def __init__(
        self,
        horizon_s: float = 3600.0,
        memory_s: float = ROOM_MEMORY_MS / 1000,
        negatives_after_first: bool = False,
    ) -> None:
        self.horizon_ms, self.lookback_ms = int(horizon_s * 1000), int(memory_s * 1000)
        if self.horizon_ms <= 0 or self.lookback_ms <= 0:
            raise ValueError(f"horizon_s and memory_s must be positive, got {horizon_s} and {memory_s}")
        self.negatives_after_first = negatives_after_first

    def label(self, events: Columns, impressions: Columns, tasks: tuple[Task, ...], watermark_ms: int) -> Labels:
        require_time_for(tasks, self.horizon_ms / 1000, "the horizon of first_only")
        actions = RoomActions(events, impressions)
        outcomes = visit_outcomes(actions, tasks, 1, self.horizon_ms, label_unclicked=True)
        positive, negative = outcomes.positive_ms, outcomes.negative_ms
        for column, task in enumerate(tasks):
            action = outcomes.action_ms[:, column]
            repeated = actions.last_fulfilled(task, before=action) >= action - self.lookback_ms
            positive[repeated, column] = NEVER_MS
            if not self.negatives_after_first:
                # Of watch time only what was reached by the impression: the rest isn't known when it may be emitted.
                done = actions.last_fulfilled(task, before=actions.start - watch_ms(task))
                negative[done >= actions.start - self.lookback_ms, column] = NEVER_MS
        return labels_at(positive, negative, watermark_ms)
