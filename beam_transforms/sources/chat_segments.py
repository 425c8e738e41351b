"""Segments of chat logs, described by the emotes that the chatters used."""

import collections
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from threadpoolctl import threadpool_limits

from beam_transforms.content import MAX_SEGMENT_ROWS, segment_batch
from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.chat_log import AUTHOR_ID, MESSAGE_COLUMNS, MESSAGE_TIMES, ChatLogSource, message_times
from beam_transforms.sources.source import DeadLetter, SourceError
from beam_transforms.sources.tables.table import Column, Rows, read_table
from beam_transforms.sources.tables.value_types import TEXT

_EMOTES = Column("names", TEXT, ("emotes",), required=False)


class ChatSegments:
    """A segment for each session and window of 30 s with at least one emote.

    Chat logs have no embedding of what was shown. What stands in for it: the emotes of the window, counted, weighted by
    tf-idf and projected to `width` floats by a truncated SVD. Both are fitted on the segments that ended before
    `fit_before_ms` and applied to all, so nothing of the later time is in the description. An emote that the
    earlier time doesn't have says nothing; a segment with no other has a description of zeros.

    Memory: 24 bytes for each (segment, emote) that occurs, and one batch of descriptions.

    Args:
        folder: A folder of chat logs, as for `ChatLogSource`.
        fit_before_ms: The cut between the time to learn from and the rest, milliseconds since the epoch.
        width: Floats of a description.
        seed: Of the SVD's random start.

    Raises:
        SourceError: If the folder holds no chat log, or `read` finds no emote before the cut.
        ValueError: If `width` isn't positive.
    """

    def __init__(self, folder: Path, fit_before_ms: int, width: int = 64, seed: int = 0) -> None:
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        self._folder = Path(folder)
        self._paths = [Path(partition.path) for partition in ChatLogSource(self._folder).partitions()]
        self._fit_before_ms = fit_before_ms
        self._width = width
        self._seed = seed

    def read(self) -> Iterator[pa.RecordBatch]:
        """Batches with schema `content.segment_arrow_schema(width)`, ordered by session and time.

        A message that can't be read is left out: `ChatLogSource.read` gives its dead letter.
        """
        sessions, begins, counts = self._counts()
        known = np.flatnonzero(begins + WINDOW_MS <= self._fit_before_ms)
        # Emotes that the earlier time has, and no other.
        counts = counts[:, np.flatnonzero(np.asarray(counts[known].sum(axis=0)).ravel())]
        if not counts.shape[1]:
            raise SourceError(
                f"{self._folder}: of {len(begins)} segments with emotes, none ended before {self._fit_before_ms}; "
                "nothing to fit their description on"
            )
        weights = TfidfTransformer().fit(counts[known])
        # The projection can't be wider than there are emotes; what is missing stays 0.
        width = min(self._width, counts.shape[1])
        with threadpool_limits(1):  # with more, sums depend on how they are shared out, and all codes on the sums
            svd = TruncatedSVD(width, random_state=self._seed).fit(weights.transform(counts[known]))
        for first in range(0, len(begins), MAX_SEGMENT_ROWS):
            rows = slice(first, first + MAX_SEGMENT_ROWS)
            with threadpool_limits(1):
                described = svd.transform(weights.transform(counts[rows]))
            vectors = np.zeros((len(described), self._width), dtype=np.float32)
            vectors[:, :width] = described
            yield segment_batch(sessions[rows], AUTHOR_ID, begins[rows] + WINDOW_MS - 1, vectors)

    def _counts(self) -> tuple[np.ndarray, np.ndarray, scipy.sparse.csr_matrix]:
        """Sessions and begins of the segments, both (S,), and how often each has each emote, (S, emotes by name)."""
        numbers: dict[str, int] = {}
        parts = [part for path in self._paths for part in _occurrences(path, numbers)]
        sessions, begins, emotes, counts = (
            np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)
            for columns in (list(zip(*parts, strict=True)) or [()] * 4)
        )
        # By name, so that the order of the files means nothing.
        by_name = np.empty(len(numbers), dtype=np.int64)
        by_name[[numbers[name] for name in sorted(numbers)]] = np.arange(len(numbers))
        keys, segments = np.unique(np.stack([sessions, begins]), axis=1, return_inverse=True)
        matrix = scipy.sparse.csr_matrix(
            (counts.astype(np.float64), (segments.ravel(), by_name[emotes])), shape=(keys.shape[1], len(numbers))
        )
        matrix.sum_duplicates()
        return keys[0], keys[1], matrix


def _occurrences(path: Path, numbers: dict[str, int]) -> Iterator[tuple[np.ndarray, ...]]:
    """For each block of a log: session, begin of the window, emote and count, each once in the block; int64."""
    for rows in read_table(path, (*MESSAGE_COLUMNS, _EMOTES), MESSAGE_TIMES):
        if isinstance(rows, DeadLetter) or "names" not in rows:
            continue
        found = _count(rows, numbers)
        if found:
            sessions, begins, emotes = np.array(list(found), dtype=np.int64).T
            yield sessions, begins, emotes, np.array(list(found.values()), dtype=np.int64)


def _count(rows: Rows, numbers: dict[str, int]) -> collections.Counter[tuple[int, int, int]]:
    begins = message_times(rows) // WINDOW_MS * WINDOW_MS
    found: collections.Counter[tuple[int, int, int]] = collections.Counter()
    for row in np.flatnonzero(rows["names"] != "").tolist():
        session, begin = int(rows["live_id"][row]), int(begins[row])
        for name in filter(None, rows["names"][row].split(" ")):
            found[session, begin, numbers.setdefault(name, len(numbers))] += 1
    return found
