"""Histories in the online store: the features that follow, at a time, from what stays true while time passes.

An age grows with every second, the time of the last event doesn't. So a record of a history, as
`histories.history_record` makes it, holds counts and sums, and of each kind the time of its last event: it is rewritten
only when something happened, or when an event left a lookback.
"""

from collections.abc import Mapping

import numpy as np

from beam_transforms.schema import ENTERED_LAST_MS, MEMORY_MS, NEVER_S, PADDING_ID, HistoryCounts

NEVER_MS = PADDING_ID
"""Stands in the stored times for "never"; every time <= 0 is taken as that."""


def with_ages(history: HistoryCounts, record: Mapping[str, np.ndarray], as_of_ms: np.ndarray | int) -> np.ndarray:
    """The features of a history as of a time.

    A history whose newest entry is more than `history.memory_ms` before `as_of_ms` is as if it had never been.

    Args:
        history: Which one.
        record: `history.feature_name`, float32 of shape (B, len(history.columns)), whose ages are ignored, and
            `history.last_ms_name`, int64 of shape (B, len(history.kinds) + 1): the time of the last event of each kind,
            then that of the newest entry, which memory is counted from.
        as_of_ms: The time, one or of shape (B,). An event after it (of a write that isn't finished) has age 0.

    Returns:
        float32 of shape (B, len(history.columns)).
    """
    features = np.array(record[history.feature_name], dtype=np.float32)
    last_ms, newest = record[history.last_ms_name][:, :-1], record[history.last_ms_name][:, -1]
    now = np.broadcast_to(as_of_ms, newest.shape)
    age_s = np.clip((now[:, None] - last_ms) / 1000.0, 0.0, NEVER_S)
    ages = [place for place, name in enumerate(history.columns) if name.endswith("_age_s")]
    features[:, ages] = np.where(last_ms > 0, age_s, NEVER_S)
    features[(newest <= 0) | (now - newest > history.memory_ms)] = history.empty
    return features


def remembered_authors(record: Mapping[str, np.ndarray], as_of_ms: int) -> np.ndarray:
    """The authors of the rooms that users entered, as of a time.

    A user who has entered nothing for `MEMORY_MS`, whatever else the user did, is as one who never entered anything.

    Args:
        record: `entered_authors`, int64 of shape (B, L), and `entered_last_ms`, int64 of shape (B,).
        as_of_ms: The time.

    Returns:
        int64 of shape (B, L).
    """
    newest = record[ENTERED_LAST_MS]
    forgotten = (newest <= 0) | (as_of_ms - newest > MEMORY_MS)
    return np.where(forgotten[:, None], PADDING_ID, record["entered_authors"])
