"""OutcomeStage: impressions joined with the rankings that led to them, and with whether the user clicked."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from beam_transforms.columnar import Columns, Groups, Timeline, empty, take, to_batch
from beam_transforms.impressions import IMPRESSION_KEY, distinct_impressions
from beam_transforms.labels import FastWindow
from beam_transforms.schema import EVENT_COLUMNS, LIVE_SCHEMA, PADDING_ID, EventKind, Task
from beam_transforms.served_lines import SERVED_COLUMNS
from beam_transforms.stage import Clock, Input, Stage, StageState, Tables

CLICK: Task = next(task for task in LIVE_SCHEMA.tasks if task.name == "ctr")
"""What an outcome's label says."""


class OutcomeStage(Stage):
    """Events and served rankings of some users.

    Flows in: `events`, of which EXPOSURE and ENTER count, and `served`. Flows out, once each:

    - `outcomes`: the impressions whose labels became known, with the ranking that led to each (`SERVED_COLUMNS`, the
      time being the impression's) and `label`, float32;
    - `unserved`: those of them that no ranking led to (`IMPRESSION_KEY`);
    - `failed`: requests that ended with an error (`SERVED_COLUMNS`);
    - `unshown`: rankings none of whose rooms was shown (`user_id`, `timestamp_ms`).

    The ranking that led to an impression is the user's last one with that room at or before it, if it is no older than
    `attribution_s`. The label is that of `FastWindow`: known when its window has ended, 1 if the user entered in it and
    before the next impression of the room. A request that failed flows out when the label of an impression at its time
    would: counted earlier, failures would be too large a part of what is known.

    A ranking may come until the label of an impression at its time is known. Of a user's rankings with the same room in
    the same millisecond one counts, and so does one of the requests that failed in it with the same error: a line that
    is read twice changes nothing.

    Args:
        horizon_s: Length of the label's window in seconds.
        attribution_s: Seconds for which a ranking counts.

    Raises:
        ValueError: If one isn't positive.
    """

    def __init__(self, horizon_s: float = 300.0, attribution_s: float = 600.0) -> None:
        if attribution_s <= 0:
            raise ValueError(f"attribution_s must be positive, got {attribution_s}")
        self._policy = FastWindow(horizon_s)
        self.horizon_ms, self.attribution_ms = self._policy.horizon_ms, int(attribution_s * 1000)
        self.lag_ms = self.horizon_ms + self.attribution_ms

    @property
    def inputs(self) -> Mapping[str, Input]:
        return {
            "events": Input(empty(EVENT_COLUMNS), outside=True, key=tuple(EVENT_COLUMNS)),
            "served": Input(empty(SERVED_COLUMNS), key=(*IMPRESSION_KEY, "error")),
        }

    @property
    def tables_out(self) -> tuple[str, ...]:
        return ("outcomes", "unserved", "failed", "unshown", "late_events")

    def empty(self) -> Tables:
        return {}

    def outputs(self, state: Tables, rows: Tables, before: Clock, now: Clock) -> Tables:
        events, served = rows["events"], {name: rows["served"][name] for name in SERVED_COLUMNS}
        shown = _shown(events)
        ranking = self._rankings(served, shown)
        labels = self._policy.label(events, shown, (CLICK,), now.settled_ms)
        chosen = np.flatnonzero(labels.emitted_ms > before.settled_ms)
        impression, label = labels.impression[chosen], labels.label[chosen, 0]
        is_served = ranking[impression] >= 0
        outcomes = take(served, ranking[impression[is_served]])
        outcomes["timestamp_ms"] = shown["timestamp_ms"][impression[is_served]]
        return {
            "outcomes": outcomes | {"label": label[is_served]},
            "unserved": take(shown, impression[~is_served]),
            "failed": self._failed(served, before, now),
            "unshown": self._unshown(served, ranking, before, now),
        }

    def fold(self, state: Tables, rows: Tables, until_ms: int) -> Tables:
        return {}

    def waiting(self, state: StageState) -> int:
        """Impressions whose label isn't known yet."""
        return int((_shown(state.rows["events"])["timestamp_ms"] > state.clock.settled_ms - self.horizon_ms).sum())

    def _rankings(self, served: Columns, shown: Columns) -> np.ndarray:
        """The row of `served` that led to each impression, -1 where none did."""
        names = ("user_id", "live_id")
        timeline = Timeline([served[n] for n in names], served["timestamp_ms"], [shown[n] for n in names])
        last = timeline.before(shown["timestamp_ms"] + 1) - 1
        found = np.flatnonzero(last >= timeline.start)
        found = found[shown["timestamp_ms"][found] - timeline.timestamps[last[found]] <= self.attribution_ms]
        rows = np.full(len(last), -1)
        rows[found] = timeline.order[last[found]]
        return rows

    def _failed(self, served: Columns, before: Clock, now: Clock) -> Columns:
        known_ms = served["timestamp_ms"] + self.horizon_ms
        is_due = (known_ms > before.settled_ms) & (known_ms <= now.settled_ms)
        return take(served, np.flatnonzero(is_due & (served["live_id"] == PADDING_ID)))

    def _unshown(self, served: Columns, ranking: np.ndarray, before: Clock, now: Clock) -> Columns:
        """Decided when the last impression that it could have led to is labelled."""
        is_shown = np.zeros(len(served["user_id"]), dtype=np.int64)
        is_shown[ranking[ranking >= 0]] = 1
        rooms = np.flatnonzero(served["live_id"] != PADDING_ID)
        groups = Groups([served[name][rooms] for name in ("user_id", "timestamp_ms")])
        rankings = {name: served[name][rooms][groups.first] for name in ("user_id", "timestamp_ms")}
        known_ms = rankings["timestamp_ms"] + self.attribution_ms + self.horizon_ms
        is_due = (known_ms > before.settled_ms) & (known_ms <= now.settled_ms)
        return take(rankings, np.flatnonzero(is_due & (groups.reduce(np.maximum, is_shown[rooms]) == 0)))


def _shown(events: Columns) -> Columns:
    """The impressions that events tell, `IMPRESSION_KEY`, each once."""
    exposures = take(
        {name: events[name] for name in IMPRESSION_KEY}, np.flatnonzero(events["kind"] == EventKind.EXPOSURE)
    )
    batch: pa.RecordBatch = to_batch(exposures)
    return distinct_impressions([batch])
