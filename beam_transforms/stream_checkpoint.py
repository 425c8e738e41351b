"""StreamCheckpoint: all that a local stream has to know to go on, in one file."""

import base64
import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beam_transforms.window_files import replace_file

_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class StreamCheckpoint:
    """A stream after a step, or between two of them, and what was to be written then.

    What a step gives is kept here before it is written anywhere else. So whoever comes after a crash writes it again
    instead of finding it anew: not even a source that cuts its messages otherwise the second time changes it.

    Attributes:
        settings: What must stay the same from start to start.
        mark: The source's mark, encoded: all rows before it are in the states or have arrived since.
        states: The stages, see `LocalStages.state`.
        outputs: Tables and lines that are to be written.
        now_ms: The last step's window end; 0 before the first.
        newest_ms: The newest event; None before the first.
        ended: Whether the source has ended.
        counts: Numbers of rows since the beginning, by name.
        arrived: Rows that wait for the next step, by table.
        part: 0 after a step; else how many times something was written since.
    """

    settings: Mapping[str, Any]
    mark: bytes
    states: Mapping[str, bytes]
    outputs: Mapping[str, bytes]
    now_ms: int
    newest_ms: int | None = None
    ended: bool = False
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    arrived: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    part: int = 0

    def save(self, path: Path) -> None:
        """Puts it in the place of an earlier one, whole."""
        parts = {"states": self.states, "outputs": self.outputs, "arrived": self.arrived}
        head = {
            "format": _FORMAT,
            "settings": self.settings,
            "mark": base64.b64encode(self.mark).decode(),
            "now_ms": self.now_ms,
            "newest_ms": self.newest_ms,
            "ended": self.ended,
            "counts": self.counts,
            "part": self.part,
            "sizes": {kind: {name: len(data) for name, data in of.items()} for kind, of in parts.items()},
        }
        data = [json.dumps(head).encode(), b"\n", *(data for of in parts.values() for data in of.values())]
        replace_file(path, lambda temporary: temporary.write_bytes(b"".join(data)))

    @classmethod
    def load(cls, path: Path, settings: Mapping[str, Any]) -> "StreamCheckpoint | None":
        """The checkpoint of a file; None if there is none.

        Raises:
            ValueError: If it can't be read, or was written with other settings, which are named.
        """
        if not path.exists():
            return None
        stream = io.BytesIO(path.read_bytes())
        remedy = "remove it, with all that was written beside it, to begin anew"
        try:
            head = json.loads(stream.readline())
            if head["format"] != _FORMAT:
                raise ValueError(f"format {head['format']}, expected {_FORMAT}")
            parts = {
                kind: {name: stream.read(size) for name, size in sizes.items()} for kind, sizes in head["sizes"].items()
            }
            if stream.read(1) or any(
                len(parts[k][n]) != size for k, of in head["sizes"].items() for n, size in of.items()
            ):
                raise ValueError("it has another length than it says")
            found = cls(
                head["settings"],
                base64.b64decode(head["mark"]),
                parts["states"],
                parts["outputs"],
                head["now_ms"],
                head["newest_ms"],
                head["ended"],
                head["counts"],
                parts["arrived"],
                head["part"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a checkpoint of a stream ({error}); {remedy}") from error
        wanted = json.loads(json.dumps(dict(settings)))
        other = [name for name in wanted if found.settings.get(name) != wanted[name]]
        if other:
            differences = [f"{name} was {found.settings.get(name)}, is {wanted[name]}" for name in other]
            raise ValueError(f"{path}: the stream was begun otherwise: {'; '.join(differences)[:600]}; {remedy}")
        return found
