"""Lines of served rankings: who was served which rooms by which version when, with which predicted clicks."""

import dataclasses
import json
from typing import Any

import numpy as np

from beam_transforms.columnar import Columns
from beam_transforms.line_format import MAX_LINE_BYTES
from beam_transforms.schema import PADDING_ID
from beam_transforms.sources.source import MAX_TEXT, DeadLetter
from beam_transforms.sources.tables.timestamps import MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS

SERVED_COLUMNS = {
    "timestamp_ms": "int64",
    "user_id": "int64",
    "live_id": "int64",
    "experiment": "int64",
    "version": "int64",
    "fell_back": "int64",
    "score": "float64",
    "error": "int64",
}
"""Name -> dtype of a row: a room of a ranking, or a request that failed, whose room is `PADDING_ID`.

`experiment` and `error` are numbers of names, `error` -1 where there is none.
"""

_NO_ERROR = -1
_ANSWERED = {"timestamp_ms", "experiment", "user_id", "version", "fell_back", "ctr"}
_FAILED = {"timestamp_ms", "experiment", "user_id", "error"}
_MAX_SHOWN = 100


@dataclasses.dataclass(frozen=True)
class ServedRows:
    """What a block of lines holds.

    Attributes:
        rows: `SERVED_COLUMNS`.
        lines: The line of each row, from 0, int64 (rows,).
        rankings: Lines that are rankings.
        empty: Those of them without a room.
        times_ms: The time of each line that could be read, int64 (lines,).
        dead_letters: One for each line that can't be read.
    """

    rows: Columns
    lines: np.ndarray
    rankings: int
    empty: int
    times_ms: np.ndarray
    dead_letters: tuple[DeadLetter, ...]


def parse_served_lines(lines: list[bytes], names: list[str], file: str, line: int, latest_ms: int) -> ServedRows:
    """Parses lines as `serving.canary.served_log.ServedLog` writes them; blank ones mean nothing.

        {"timestamp_ms": 1750000000000, "experiment": "version-8", "user_id": 17, "version": 8, "fell_back": false,
         "ctr": {"3": 0.13, "5": 0.07}}
        {"timestamp_ms": 1750000000000, "experiment": "version-8", "user_id": 17, "error": "DEADLINE_EXCEEDED"}

    Each on one line. A line that isn't such an object, or of a time later than `latest_ms`, is a dead letter.

    Args:
        lines: Each without its newline.
        names: The names that numbers stand for; new ones are added.
        file: Where they come from, for dead letters.
        line: Number of the first one, for dead letters.
        latest_ms: What is later is from the future.
    """
    codes = {name: code for code, name in enumerate(names)}
    rows: list[tuple[int | float, ...]] = []
    origins: list[int] = []
    letters: list[DeadLetter] = []
    times: list[int] = []
    rankings = empty = 0
    for number, text in enumerate(lines):
        if not text.strip():
            continue
        try:
            said = _read(text, latest_ms)
        except ValueError as error:
            shown = text[: 4 * MAX_TEXT].decode("utf-8", "replace")
            letters.append(DeadLetter(file, line + number, str(error), shown))
            continue
        time_ms, user = said["timestamp_ms"], said["user_id"]
        times.append(time_ms)
        experiment = codes.setdefault(said["experiment"], len(codes))
        if "error" in said:
            error_code = codes.setdefault(said["error"], len(codes))
            found = [(time_ms, user, PADDING_ID, experiment, 0, 0, 0.0, error_code)]
        else:
            rankings, empty = rankings + 1, empty + (not said["ctr"])
            version, fell_back = said["version"], int(said["fell_back"])
            found = [
                (time_ms, user, int(room), experiment, version, fell_back, float(score), _NO_ERROR)
                for room, score in said["ctr"].items()
            ]
        rows += found
        origins += [number] * len(found)
    names += list(codes)[len(names) :]
    values = zip(*rows, strict=True) if rows else [()] * len(SERVED_COLUMNS)
    columns = {
        name: np.array(column, dtype=dtype)
        for (name, dtype), column in zip(SERVED_COLUMNS.items(), values, strict=True)
    }
    times_ms = np.array(times, np.int64)
    return ServedRows(columns, np.array(origins, np.int64), rankings, empty, times_ms, tuple(letters))


def _read(text: bytes, latest_ms: int) -> dict[str, Any]:
    """A line's object; raises a ValueError that says what is wrong with it."""
    if len(text) > MAX_LINE_BYTES:
        raise ValueError(f"a line of {len(text)} bytes; at most {MAX_LINE_BYTES} are read")
    try:
        said = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError:
        raise ValueError("not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not a JSON object on one line: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"expected a JSON object, got {_shown(said)}")
    if set(said) not in (_ANSWERED, _FAILED):
        raise ValueError(f"expected the fields {sorted(_ANSWERED)} or {sorted(_FAILED)}, got {_shown(sorted(said))}")
    time_ms, user, experiment = said["timestamp_ms"], said["user_id"], said["experiment"]
    if type(time_ms) is not int or not MIN_TIMESTAMP_MS <= time_ms < MAX_TIMESTAMP_MS:
        raise ValueError(f"timestamp_ms should be milliseconds from 2000 to 2099, got {_shown(time_ms)}")
    if time_ms > latest_ms:
        raise ValueError(f"from the future: {time_ms} is {time_ms - latest_ms} ms later than allowed")
    if not _is_id(user):
        raise ValueError(f"user_id should be an id (an integer >= 0), got {_shown(user)}")
    if not (isinstance(experiment, str) and experiment):
        raise ValueError(f"experiment should be the salt of a split, got {_shown(experiment)}")
    if "error" in said:
        if not (isinstance(said["error"], str) and said["error"]):
            raise ValueError(f"error should be a code like DEADLINE_EXCEEDED, got {_shown(said['error'])}")
        return said
    version, fell_back, clicks = said["version"], said["fell_back"], said["ctr"]
    if type(fell_back) is not bool:
        raise ValueError(f"fell_back should be true or false, got {_shown(fell_back)}")
    if not isinstance(clicks, dict):
        raise ValueError(f"ctr should be an object of rooms and scores, got {_shown(clicks)}")
    if not (_is_id(version) or (version is None and not clicks)):
        raise ValueError(f"version should be an integer >= 0, got {_shown(version)}")
    for room, score in clicks.items():
        if not (
            room.isascii() and room.isdecimal() and len(room) < 20 and str(int(room)) == room and int(room) < 2**63
        ):
            raise ValueError(f"ctr should be of rooms whose ids are integers >= 0, got {_shown(room)}")
        if type(score) not in (int, float) or not 0 <= score <= 1:
            raise ValueError(f"ctr of room {room} should be a probability, got {_shown(score)}")
    return said


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _shown(value: Any) -> str:
    return repr(value)[:_MAX_SHOWN]
