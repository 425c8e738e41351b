"""StoreHead: what a reader of the online store has to know before it reads a record."""

import functools
import hashlib
import json
from collections.abc import Mapping

import numpy as np

from beam_transforms.record_layout import RecordLayout, layouts
from beam_transforms.schema import RankingSchema, schema_from_json, schema_to_json

_FORMAT = 2
_SEQUENCES = (
    "statistic_sequence",
    "statistic_mask",
    "semantic_ids",
    "run_lengths",
    "product_ids",
    "product_categories",
)


class StoreHead:
    """The time as of which the store's features hold, the live rooms with their authors, and the schema.

    With the authors at hand, the keys of all records of a request are known before the first is read.

    Args:
        schema: What is stored.
        as_of_ms: The time.
        live_ids: The live rooms, int64 of shape (R,), ascending.
        author_ids: Their authors, int64 of shape (R,).
        generation: Name of the filling that the records belong to, where the store keeps several at a time.
    """

    def __init__(
        self,
        schema: RankingSchema,
        as_of_ms: int,
        live_ids: np.ndarray,
        author_ids: np.ndarray,
        generation: str = "",
    ) -> None:
        self.schema, self.as_of_ms, self.generation = schema, as_of_ms, generation
        self.live_ids, self.author_ids = live_ids, author_ids
        self.layouts: Mapping[tuple[str, ...], RecordLayout] = layouts(schema)
        self.inputs = schema.inputs
        self.sequence_names = tuple(feature.name for feature in self.inputs if feature.name in _SEQUENCES)

    def authors(self, live_ids: np.ndarray) -> np.ndarray:
        """The authors of live rooms, shape (R,).

        Raises:
            ValueError: If a room isn't live.
        """
        place, live = self.find(live_ids)
        if not live.all():
            room = {"live_id": int(live_ids[np.argmin(live)])}
            raise ValueError(f"no features stored for {room}: the room isn't live; ask for rooms of `live_ids`")
        return self.author_ids[place]

    def find(self, live_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rooms stand among the live ones, and whether they do: int64 and bool of shape (R,)."""
        if not len(self.live_ids):
            return np.zeros(len(live_ids), dtype=np.int64), np.zeros(len(live_ids), dtype=bool)
        place = np.minimum(np.searchsorted(self.live_ids, live_ids), len(self.live_ids) - 1)
        return place, self.live_ids[place] == live_ids

    @functools.cached_property
    def data(self) -> bytes:
        """A line of JSON, then the rooms and their authors as little-endian integers."""
        described = {
            "format": _FORMAT,
            "schema": schema_to_json(self.schema),
            "as_of_ms": self.as_of_ms,
            "live_rooms": len(self.live_ids),
            "generation": self.generation,
        }
        rooms = np.concatenate([self.live_ids, self.author_ids]).astype("<i8").tobytes()
        return json.dumps(described).encode() + b"\n" + rooms

    @property
    def stamp(self) -> bytes:
        """A hash of the head: it tells a reader whether the head that it knows is still the one."""
        return hashlib.sha256(self.data).digest()[:16]

    @classmethod
    def parse(cls, data: bytes, where: str) -> "StoreHead":
        """The inverse of `data`; raises ValueError on anything else."""
        line, _, rooms = data.partition(b"\n")
        try:
            described = json.loads(line)
            if described["format"] != _FORMAT or len(rooms) != 16 * described["live_rooms"]:
                raise ValueError(f"format {described['format']}, {len(rooms)} bytes of rooms")
            live_ids, author_ids = np.frombuffer(rooms, dtype="<i8").astype(np.int64).reshape(2, -1)
            schema = schema_from_json(described["schema"])
            return cls(schema, described["as_of_ms"], live_ids, author_ids, described["generation"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{where}: the head of the online store can't be read ({error}); it is damaged or of another version "
                "of this program: write the store again from the beginning"
            ) from error
