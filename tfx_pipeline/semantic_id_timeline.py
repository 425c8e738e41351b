"""What semantic ids look like on real chat: one session under its message rate, and the ids that chat most."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from beam_transforms.codebook import Codebook
from beam_transforms.columnar import Columns, Groups, concatenate, empty, take, to_columns
from beam_transforms.schema import PADDING_ID, WINDOW_MS, EventKind
from beam_transforms.sources.source import DeadLetter, Source
from tfx_pipeline.report.semantic_id_plot import write_semantic_id_plot

NAMED = 10
"""Semantic ids of the session that are told apart, the most frequent ones."""

LEAST_SEGMENTS = 20
"""A semantic id's messages per chatter are told from as many segments on; of fewer they are mostly chance."""

_SEGMENTS = {"live_id": "int64", "timestamp_ms": "int64", "semantic_id": "int64"}
_CHATTERS = {"live_id": "int64", "begin_ms": "int64", "user_id": "int64", "messages": "int64"}


def write_semantic_id_timeline(source: Source, codebook: Codebook, cut_ms: int, folder: Path) -> dict[str, str]:
    """Writes `semantic_ids.json`, what `semantic_id_timeline` returns, and its plot `semantic_ids.svg`.

    Returns:
        {"json", "plot"}: the paths of both.

    Raises:
        ValueError: As `semantic_id_timeline` does.
    """
    figures = semantic_id_timeline(source, codebook, cut_ms)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"json": folder / "semantic_ids.json", "plot": folder / "semantic_ids.svg"}
    paths["json"].write_text(json.dumps(figures, indent=1) + "\n")
    write_semantic_id_plot(figures, paths["plot"])
    return {name: str(path) for name, path in paths.items()}


def semantic_id_timeline(source: Source, codebook: Codebook, cut_ms: int) -> dict[str, Any]:
    """Reads a source's messages and segments once more, and puts one beside the other.

    Messages are comments, counted as they are told, in windows of 30 s. A segment goes with the window that its last
    millisecond is in; where segments are longer than a window, that is their last one.

    Messages per chatter of a semantic id: the messages in all of its segments, by the chatters in each of them, summed
    (who writes in two segments counts twice). A chatter is a user with at least one message in the window.

    Memory: 32 bytes for each user and window with a message, and 24 bytes a segment.

    Args:
        source: Tells comments, and segments that the codebook fits.
        codebook: What makes the segments semantic ids.
        cut_ms: The session is the one with most messages from here on, the messages per chatter are of segments that
            ended before.

    Returns:
        "codebook": its version; "cut_ms";
        "session": {"live_id", "messages", "begin_ms": of the first window, "windows": from the first with a message to
        the last {"messages": counts, "chatters": counts, "semantic_ids": of each, None where there is no segment},
        "named": the `NAMED` most frequent ids, {"semantic_id", "segments"} each};
        "most_messages_per_chatter": {"least_segments": `LEAST_SEGMENTS`, "all": of all segments before the cut,
        {"segments", "messages", "chatters", "messages_per_chatter"}, "semantic_ids": the same of each id that has as
        many segments, and "semantic_id" and "sessions" that it was in; the largest first}.

    Raises:
        ValueError: If there is no comment from the cut on, or the embeddings are of another width than the codes.
    """
    segments = concatenate([empty(_SEGMENTS), *_segments(source, codebook)])
    windows = _windows(concatenate([empty(_CHATTERS), *_chatters(source)]))
    later = take(windows, windows["begin_ms"] >= cut_ms // WINDOW_MS * WINDOW_MS)
    if not len(later["live_id"]):
        raise ValueError(f"the source has no comment from {cut_ms} ms on; choose an earlier cut than its last comment")
    begins = segments["timestamp_ms"] // WINDOW_MS * WINDOW_MS
    return {
        "codebook": codebook.version,
        "cut_ms": cut_ms,
        "session": _session(later, {**segments, "begin_ms": begins}),
        "most_messages_per_chatter": _messages_per_chatter(
            windows, take({**segments, "begin_ms": begins}, segments["timestamp_ms"] < cut_ms), codebook.size
        ),
    }


def _segments(source: Source, codebook: Codebook) -> Iterator[Columns]:
    for partition in source.segment_partitions():
        for batch in source.read_segments(partition):
            if not isinstance(batch, DeadLetter):
                segments = to_columns([batch])
                segments["semantic_id"] = codebook.assign(segments["embedding"])
                known = np.flatnonzero(segments["semantic_id"] != PADDING_ID)
                yield {name: segments[name][known] for name in _SEGMENTS}


def _chatters(source: Source) -> Iterator[Columns]:
    """Users and windows with messages, each once a batch."""
    for partition in source.partitions():
        for batch in source.read(partition):
            if isinstance(batch, DeadLetter):
                continue
            comments = np.flatnonzero(batch["kind"].to_numpy() == EventKind.COMMENT)
            keys = {name: batch[name].to_numpy()[comments] for name in ("live_id", "timestamp_ms", "user_id")}
            keys["begin_ms"] = keys.pop("timestamp_ms") // WINDOW_MS * WINDOW_MS
            yield _counted(keys, np.ones(len(comments), dtype=np.int64))


def _counted(keys: Columns, messages: np.ndarray) -> Columns:
    groups = Groups([keys[name] for name in ("live_id", "begin_ms", "user_id")])
    return {
        name: groups.reduce(np.add, messages) if name == "messages" else keys[name][groups.first] for name in _CHATTERS
    }


def _windows(chatters: Columns) -> Columns:
    """Each room's windows with a message, in the order of room and time: their messages and chatters."""
    chatters = _counted(chatters, chatters["messages"])
    groups = Groups([chatters["live_id"], chatters["begin_ms"]])
    return {
        "live_id": chatters["live_id"][groups.first],
        "begin_ms": chatters["begin_ms"][groups.first],
        "messages": groups.reduce(np.add, chatters["messages"]),
        "chatters": groups.reduce(np.add, np.ones(len(groups.group), dtype=np.int64)),
    }


def _session(windows: Columns, segments: Columns) -> dict[str, Any]:
    """The session with most messages of these windows; of several, the one with the smallest id."""
    rooms, numbers = np.unique(windows["live_id"], return_inverse=True)
    live_id = rooms[np.argmax(np.bincount(numbers, windows["messages"]))]
    windows = take(windows, windows["live_id"] == live_id)
    begin = int(windows["begin_ms"].min())
    length = int(windows["begin_ms"].max() - begin) // WINDOW_MS + 1
    found = take(segments, segments["live_id"] == live_id)
    places = (found["begin_ms"] - begin) // WINDOW_MS
    inside = (places >= 0) & (places < length)
    semantic_ids = np.full(length, PADDING_ID)
    semantic_ids[places[inside]] = found["semantic_id"][inside]
    timeline = {name: np.zeros(length, dtype=np.int64) for name in ("messages", "chatters")}
    for name, values in timeline.items():
        values[(windows["begin_ms"] - begin) // WINDOW_MS] = windows[name]
    distinct, counts = np.unique(semantic_ids[semantic_ids != PADDING_ID], return_counts=True)
    named = np.argsort(-counts, kind="stable")[:NAMED]
    return {
        "live_id": int(live_id),
        "messages": int(windows["messages"].sum()),
        "begin_ms": begin,
        "windows": {
            **{name: values.tolist() for name, values in timeline.items()},
            "semantic_ids": [None if value == PADDING_ID else value for value in semantic_ids.tolist()],
        },
        "named": [{"semantic_id": int(distinct[i]), "segments": int(counts[i])} for i in named],
    }


def _messages_per_chatter(windows: Columns, segments: Columns, codes: int) -> dict[str, Any]:
    keys = [np.concatenate([windows[name], segments[name]]) for name in ("live_id", "begin_ms")]
    groups, known = Groups(keys), len(windows["live_id"])
    ids = segments["semantic_id"]
    sums: dict[str, np.ndarray] = {"segments": np.bincount(ids, minlength=codes)}
    for name in ("messages", "chatters"):
        of_window = np.zeros(groups.count, dtype=np.int64)
        of_window[groups.group[:known]] = windows[name]
        sums[name] = np.bincount(ids, of_window[groups.group[known:]], codes).astype(np.int64)
    pairs = Groups([ids, segments["live_id"]])
    sums["sessions"] = np.bincount(ids[pairs.first], minlength=codes)
    rates = sums["messages"] / np.maximum(sums["chatters"], 1)
    counted = np.flatnonzero((sums["segments"] >= LEAST_SEGMENTS) & (sums["chatters"] > 0))
    ranked = counted[np.argsort(-rates[counted], kind="stable")]
    total = {name: int(values.sum()) for name, values in sums.items() if name != "sessions"}
    rate = total["messages"] / total["chatters"] if total["chatters"] else None
    return {
        "least_segments": LEAST_SEGMENTS,
        "all": {**total, "messages_per_chatter": rate},
        "semantic_ids": [
            {
                "semantic_id": code,
                **{name: int(values[code]) for name, values in sums.items()},
                "messages_per_chatter": float(rates[code]),
            }
            for code in ranked.tolist()
        ],
    }
