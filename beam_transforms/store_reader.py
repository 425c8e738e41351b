"""StoreReader: what can be read of an online store."""

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from beam_transforms.feature_request import FeatureRequest
from beam_transforms.foresight_vectors import read_vectors
from beam_transforms.rank_request import RankRequest
from beam_transforms.record_layout import check_same
from beam_transforms.room_records import RoomRecords
from beam_transforms.schema import RankingSchema
from beam_transforms.served import Served
from beam_transforms.store_description import describe_store
from beam_transforms.store_head import StoreHead
from beam_transforms.store_snapshot import StoreSnapshot
from beam_transforms.stored_rooms import StoredRooms
from beam_transforms.unusable_store_error import UnusableStoreError
from beam_transforms.wanted_records import WantedRecords


class StoreReader(abc.ABC):
    """The reading half of `OnlineStore`. Whatever is read at once is of one state of the store.

    Args:
        location: Where the store is, without a password.
        expected: The schema whose features the reader needs; None takes what is stored.
    """

    def __init__(self, location: str, expected: RankingSchema | None) -> None:
        self.location, self._expected = location, expected

    @property
    def schema(self) -> RankingSchema:
        return self._head().schema

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.schema.task_names

    @property
    def sequence_names(self) -> tuple[str, ...]:
        """Names of the inputs that only forecasters read; a foresight vector stands for them."""
        return self._head().sequence_names

    @property
    def as_of_ms(self) -> int:
        return self._head().as_of_ms

    @property
    def live_ids(self) -> np.ndarray:
        """Rooms that are live, int64, ascending."""
        return self._head().live_ids.copy()

    @property
    @abc.abstractmethod
    def served(self) -> Served:
        """Which versions are served; empty when nothing was ever set."""

    @property
    @abc.abstractmethod
    def foresight_versions(self) -> tuple[int, ...]:
        """The versions under which there are vectors, ascending, served or not."""

    def request(
        self, user_id: int, live_ids: Sequence[int] | np.ndarray | None = None, now_ms: int | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The inputs of the signature `serving_default` for one user and R rooms.

        A user, or a pair of user and author, that was never seen has an empty history.

        Args:
            user_id: The user.
            live_ids: The rooms; all that are live by default.
            now_ms: Time of the request, which the feature `context` is computed at; the store's `as_of_ms` by default.

        Returns:
            The rooms, int64 of shape (R,), and the features by name, each of shape (R, ...), in the order of
            `schema.inputs`.

        Raises:
            ValueError: If a room isn't live.
            UnusableStoreError: If the store is empty or damaged.
            OSError: If the store can't be reached.
        """
        asked: list[FeatureRequest] = []

        def wanted(head: StoreHead, _: Served) -> WantedRecords:
            asked[:] = [FeatureRequest(head, user_id, live_ids)]
            return WantedRecords(asked[0].keys)

        found = self._read(wanted)
        with _usable():
            return asked[0].live_ids, asked[0].inputs(found.records, now_ms, self.location)

    def rank_request(
        self,
        user_id: int,
        live_ids: Sequence[int] | np.ndarray | None = None,
        now_ms: int | None = None,
        label: str = "stable",
    ) -> RankRequest:
        """What the ranker is asked with for one user and R rooms, in one read.

        Features, version and vectors are of one state of the store, whatever is written meanwhile.

        Args:
            user_id, live_ids, now_ms: As for `request`.
            label: The label whose version is to answer.

        Raises:
            ValueError: If a room isn't live, or there are labels and this isn't one.
            UnusableStoreError: If the store is empty or damaged, or a vector isn't as wide as it is said to be.
            OSError: If the store can't be reached.
        """
        asked: list[FeatureRequest] = []

        def wanted(head: StoreHead, served: Served) -> WantedRecords:
            asked[:] = [FeatureRequest(head, user_id, live_ids)]
            version = served.version(label)
            without = version is None or not served.foresight_sizes[version]
            return WantedRecords(asked[0].keys) if without else WantedRecords(asked[0].keys, version, asked[0].live_ids)

        found = self._read(wanted)
        rooms, version = asked[0].live_ids, found.served.version(label)
        size = 0 if version is None else found.served.foresight_sizes[version]
        vectors = found.vectors if size else [None] * len(rooms)
        with _usable():
            has, foresight, times = read_vectors(vectors, rooms, version, size, self.location)
            inputs = asked[0].inputs(found.records, now_ms, self.location)
        return RankRequest(version, rooms, has, foresight, times, inputs)

    def rooms(self, changed_since_ms: int | None = None, stale_under: int | None = None) -> StoredRooms:
        """Live rooms with the model inputs that are stored of rooms, as forecasters read them.

        Args:
            changed_since_ms: Only rooms whose record was written as of a later time.
            stale_under: Only rooms whose vector under this version is missing, or older than their record.

        Raises:
            ValueError: If the store is empty, or a live room's record is gone.
            OSError: If the store can't be reached, or was replaced again and again meanwhile.
        """
        return RoomRecords(changed_since_ms, stale_under).read(self._read, self.location)

    def describe(self, live_id: int | None = None, user_id: int | None = None) -> dict[str, Any]:
        """What is stored of a room, of a user, or of both and the pair.

        Returns:
            `as_of_ms`, `live_rooms` (their number), `schema` (the RankingSchema), `live` (of the room; None without
            one) and `records`: for each key that can be told, `key` (column -> id), `written_ms` (None where there is
            no record) and `features` (name -> array, as of `as_of_ms`), with the names of their entries in `entries`.
        """
        return describe_store(lambda wanted: self._read(lambda head, _: wanted(head)), live_id, user_id)

    @abc.abstractmethod
    def close(self) -> None:
        """Gives back what the store holds; it can't be used any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _head(self) -> StoreHead:
        return self._read(lambda *_: WantedRecords()).head

    @abc.abstractmethod
    def _read(self, wanted: Callable[[StoreHead, Served], WantedRecords]) -> StoreSnapshot:
        """One state of the store, with what `wanted` (called once or more) tells for its head and what it serves."""

    def _parse_head(self, data: bytes) -> StoreHead:
        with _usable():
            head = StoreHead.parse(data, self.location)
            if self._expected is not None:
                check_same(self._expected, head.schema, self.location)
            return head

    def _parse_served(self, data: bytes | None) -> Served:
        with _usable():
            return Served.parse(data, self.location)


@contextlib.contextmanager
def _usable() -> Iterator[None]:
    """Whatever can't be read here isn't the request's fault."""
    try:
        yield
    except ValueError as error:
        raise UnusableStoreError(str(error)) from error
