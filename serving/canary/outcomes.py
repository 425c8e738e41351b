"""What came of served impressions: lines of JSON, from a file or a folder that is added to."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from serving.canary.split import CANARY

_BLOCK_LINES = 65_536


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """A block of outcomes.

    Attributes:
        rows: Side -> users (N,), scores (N,) and labels (N,).
        file: Name of the file they come from.
        end: Byte behind the last line.
        refused: Lines that could not be used.
        refusal: Why the last of them could not.
    """

    rows: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    file: str
    end: int
    refused: int
    refusal: str


def read_outcomes(path: Path, read: Mapping[str, int], version: int) -> Iterator[Outcomes]:
    """The outcomes at `path` that weren't read yet.

    A line is one impression whose label is known:

        {"user_id": 17, "side": "canary", "score": 0.13, "label": 1}

    with the score by which it was served and `Ranking.label` as the side. If the line has a "version" (that of the
    ranking), those of another version than the canary's aren't counted on its side. A line without its end isn't read
    yet.

    Args:
        path: A file, or a folder with files *.jsonl, which are read in the order of their names.
        read: File name -> bytes of it that were read.
        version: The canary's.

    Raises:
        FileNotFoundError: There is nothing at the path.
        ValueError: A file became shorter.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no file or folder of outcomes here")
    for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
        begin = read.get(file.name, 0)
        size = file.stat().st_size
        if size < begin:
            raise ValueError(
                f"{file}: has {size} bytes, {begin} were read before; outcomes are only ever added: give new ones a "
                "file of another name"
            )
        if size > begin:
            yield from _blocks(file, begin, version)


def _blocks(file: Path, begin: int, version: int) -> Iterator[Outcomes]:
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
                yield _parse(block, file.name, end, version)
                block = []
        if block:
            yield _parse(block, file.name, end, version)


def _parse(lines: list[bytes], file: str, end: int, version: int) -> Outcomes:
    columns: dict[str, tuple[list[int], list[float], list[int]]] = {"stable": ([], [], []), CANARY: ([], [], [])}
    refused, refusal = 0, ""
    for line in lines:
        try:
            outcome = json.loads(line)
            user, score, label = outcome["user_id"], outcome["score"], outcome["label"]
            users, scores, labels = columns[outcome["side"]]
            if outcome["side"] == CANARY and outcome.get("version", version) != version:
                raise ValueError(f"version {outcome['version']!r} isn't the canary's, which is {version}")
            if type(user) is not int or not -(2**63) <= user < 2**63:
                raise ValueError(f"user_id {user!r} is not a 64-bit integer")
            if type(score) not in (int, float) or not 0 <= score <= 1:
                raise ValueError(f"score {score!r} is not a probability")
            if label not in (0, 1):
                raise ValueError(f"label {label!r} is neither 0 nor 1")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            refused, refusal = refused + 1, f"{file}, line that ends before byte {end} or earlier: {error!r}"
            continue
        users.append(user)
        scores.append(score)
        labels.append(int(label))
    rows = {
        side: (np.array(users, np.int64), np.array(scores, np.float64), np.array(labels, np.int64))
        for side, (users, scores, labels) in columns.items()
    }
    return Outcomes(rows, file, end, refused, refusal)
