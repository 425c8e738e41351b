"""What came of served impressions: lines of JSON, from a file or a folder that is added to."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving.canary.split import CANARY, SIDES
from serving.canary.trial import Trial

_BLOCK_LINES = 65_536


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """A block of outcomes.

    Attributes:
        rows: One of `SIDES` -> users (N,), scores (N,) and labels (N,).
        file: Path of the file they come from.
        end: Byte behind the last line.
        refused: Lines that could not be used.
        refusal: Why the last of them could not.
    """

    rows: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    file: str
    end: int
    refused: int
    refusal: str


def read_outcomes(path: Path, read: Mapping[str, int], trial: Trial) -> Iterator[Outcomes]:
    """The outcomes at `path` that weren't read yet, e.g. those of `foresight canary outcomes`.

    A line is one impression whose label is known:

        {"experiment": "version-8", "user_id": 17, "version": 8, "fell_back": false, "score": 0.13, "label": 1}

    - "experiment" is the salt of the split (`CanaryClient.split.salt`): lines of another trial aren't counted.
    - "version" is `Ranking.version`. It must be the canary's for users of the canary that didn't fall back, and the
      stable version's for all others.
    - "fell_back": whether the stable version answered in the canary's stead: `Ranking.label` is another one than
      `CanaryClient.split.label(user_id)`.
    - "score" is the predicted click-through rate, `RankedRoom.scores["ctr"]`. (`RankedRoom.score` is a sum over tasks.)
    - "label" is 1 where the user clicked, else 0.

    A request that ended with an error, so that nothing was shown, is a line, for users of both sides:

        {"experiment": "version-8", "user_id": 17, "error": "DEADLINE_EXCEEDED"}

    Users are on the side that the split gives them. A line without its end isn't read yet.

    Args:
        path: A file, or a folder with files *.jsonl, which are read in the order of their names.
        read: Path of a file -> bytes of it that were read.
        trial: What the lines are of.

    Raises:
        OSError: There is nothing at the path.
        ValueError: Files can't be read, or became shorter; those that can have been read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no file or folder of outcomes here")
    unread: list[str] = []
    for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
        file = file.resolve()
        try:
            yield from _new(file, read.get(str(file), 0), trial)
        except (OSError, ValueError) as error:
            unread.append(str(error))
    if unread:
        raise ValueError("; ".join(unread))


def _new(file: Path, begin: int, trial: Trial) -> Iterator[Outcomes]:
    size = file.stat().st_size
    if size < begin:
        raise ValueError(
            f"{file}: has {size} bytes, {begin} were read before; outcomes are only ever added: give new ones a file "
            "of another name"
        )
    if size > begin:
        yield from _blocks(file, begin, trial)


def _blocks(file: Path, begin: int, trial: Trial) -> Iterator[Outcomes]:
    with file.open("rb") as lines:
        lines.seek(begin)
        block: list[bytes] = []
        end = begin
        for line in lines:
            if not line.endswith(b"\n"):
                break
            block.append(line)
            end += len(line)
            if len(block) == _BLOCK_LINES:
                yield _parse(block, str(file), end, trial)
                block = []
        if block:
            yield _parse(block, str(file), end, trial)


def _parse(lines: list[bytes], file: str, end: int, trial: Trial) -> Outcomes:
    refusals: list[Exception] = []
    found: list[tuple[int, dict[str, Any]]] = []
    for line in lines:
        try:
            outcome = json.loads(line)
            found.append((_user(outcome, trial), outcome))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            refusals.append(error)
    columns: dict[str, list[tuple[int, float, int]]] = {side: [] for side in SIDES}
    on_canary = trial.split.on_canary(np.array([user for user, _ in found], np.int64))
    for (user, outcome), is_canary in zip(found, on_canary.tolist(), strict=True):
        try:
            if "error" not in outcome:
                side, score, label = _impression(outcome, is_canary, trial)
                columns[side].append((user, score, label))
            else:
                columns["failed" if is_canary else "stable_failed"].append((user, 0.0, 0))
        except (ValueError, KeyError, TypeError) as error:
            refusals.append(error)
    rows = {
        side: (
            np.array([user for user, _, _ in values], np.int64),
            np.array([score for _, score, _ in values], np.float64),
            np.array([label for _, _, label in values], np.int64),
        )
        for side, values in columns.items()
    }
    refusal = f"{file}, line that ends before byte {end} or earlier: {refusals[-1]!r}" if refusals else ""
    return Outcomes(rows, file, end, len(refusals), refusal)


def _user(outcome: dict[str, Any], trial: Trial) -> int:
    experiment, user = outcome["experiment"], outcome["user_id"]
    if experiment != trial.split.salt:
        raise ValueError(f"experiment {experiment!r} isn't this one, which is {trial.split.salt!r}")
    if type(user) is not int or not -(2**63) <= user < 2**63:
        raise ValueError(f"user_id {user!r} is not a 64-bit integer")
    return user


def _impression(outcome: dict[str, Any], is_canary: bool, trial: Trial) -> tuple[str, float, int]:
    """Side, score and label."""
    fell_back, version, score, label = (outcome[name] for name in ("fell_back", "version", "score", "label"))
    if type(fell_back) is not bool or (fell_back and not is_canary):
        raise ValueError(
            f"fell_back must be true or false, and false for users of the stable side; it is {fell_back!r}"
        )
    by_canary = is_canary and not fell_back
    expected = trial.version if by_canary else trial.stable_version
    if version != expected:
        raise ValueError(f"version {version!r} isn't {'the canary' if by_canary else 'stable'}'s, which is {expected}")
    if type(score) not in (int, float) or not 0 <= score <= 1:
        raise ValueError(f"score {score!r} is not a probability")
    if label not in (0, 1):
        raise ValueError(f"label {label!r} is neither 0 nor 1")
    return "fell_back" if fell_back else CANARY if is_canary else "stable", float(score), int(label)
