"""ArrayFile: plain facts and arrays in one file that is there whole or not at all."""

import dataclasses
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from beam_transforms.window_files import replace_file

_FORMAT = "arrays-1"


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """What a file holds: a line of JSON, and the arrays' bytes one behind the other. No pickle.

    Attributes:
        facts: In JSON's types.
        arrays: By name; of any shape, with numbers or truth values in them.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Puts it in the place of an earlier one, by one rename: whoever is killed before leaves the earlier one.

        Raises:
            ValueError: If the facts hold what JSON can't, or an array holds objects.
            OSError: If the file can't be written; the earlier one stays.
        """
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        odd = [name for name, array in arrays.items() if array.dtype.kind not in "biuf"]
        if odd:
            raise ValueError(f"arrays must hold numbers or truth values, got others in {odd}")
        checksum = 0
        for array in arrays.values():
            checksum = zlib.crc32(_bytes(array), checksum)
        head = {
            "format": _FORMAT,
            "facts": dict(self.facts),
            "arrays": [[name, a.dtype.str, list(self.arrays[name].shape)] for name, a in arrays.items()],
            "checksum": checksum,
        }
        line = json.dumps(head, allow_nan=False).encode() + b"\n"

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                file.write(line)
                for array in arrays.values():
                    file.write(_bytes(array))

        replace_file(path, write)

    @classmethod
    def load(cls, path: Path) -> "ArrayFile":
        """Reads a file.

        Raises:
            ValueError: If it isn't whole, or not such a file.
            OSError: If it can't be read.
        """
        with path.open("rb") as file:
            try:
                head = json.loads(file.readline())
                if head["format"] != _FORMAT:
                    raise ValueError(f"format {head['format']!r}, expected {_FORMAT!r}")
                arrays, checksum = _read(file, head["arrays"])
                if file.read(1) or checksum != head["checksum"]:
                    raise ValueError("its bytes aren't those that were written")
                return cls(head["facts"], arrays)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} is damaged, or no file of arrays: {error}") from error


def _read(file: BinaryIO, described: Sequence[Any]) -> tuple[dict[str, np.ndarray], int]:
    arrays, checksum = {}, 0
    for name, dtype, shape in described:
        kind = np.dtype(dtype)
        if kind.kind not in "biuf":
            raise ValueError(f"array {name!r} is of {dtype}")
        array = np.empty(shape, kind)
        view = _bytes(array)
        if isinstance(file, io.BufferedReader) and file.readinto(view) != len(view):
            raise ValueError(f"it ends within the array {name!r}")
        checksum = zlib.crc32(view, checksum)
        arrays[name] = array
    return arrays, checksum


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
