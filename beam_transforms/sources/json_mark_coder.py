"""Encodes the checkpoint marks of live sources."""

import dataclasses
import json
from typing import Any

from apache_beam.coders import Coder


class JsonMarkCoder(Coder):
    """A checkpoint mark as JSON: equal marks have equal bytes, and an operator can read them.

    Args:
        mark_type: A dataclass whose fields JSON can hold; those that don't take part in comparisons are left out.
    """

    def __init__(self, mark_type: type) -> None:
        self._type = mark_type

    def encode(self, value: Any) -> bytes:
        names = [field.name for field in dataclasses.fields(self._type) if field.compare]
        return json.dumps({name: getattr(value, name) for name in names}, sort_keys=True).encode()

    def decode(self, encoded: bytes) -> Any:
        return self._type(**json.loads(encoded))

    def is_deterministic(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonMarkCoder) and self._type is other._type

    def __hash__(self) -> int:
        return hash((type(self), self._type))
