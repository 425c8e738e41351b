"""RoomFollower: runs the room-side job when the model server or the online store has something new."""

from beam_transforms.online_store import OnlineStore
from serving.model_service_client import ModelServiceClient
from serving.room_side import RoomSide
from serving.room_side_report import RoomSideReport


class RoomFollower:
    """Promotes the newest version that a server has, and refreshes vectors when the store's windows move on.

    The first step promotes in any case: what a job before it left undone is done then.

    Args:
        room_side: The job.
        service: The model server.
        store: The online store.
        model_name: The model.
        label: The label that follows the newest version.
    """

    def __init__(
        self,
        room_side: RoomSide,
        service: ModelServiceClient,
        store: OnlineStore,
        model_name: str,
        label: str = "stable",
    ) -> None:
        self._room_side, self._service, self._store = room_side, service, store
        self._model_name, self._label = model_name, label
        self._promoted: int | None = None
        self._as_of_ms = -1

    def step(self) -> RoomSideReport | None:
        """Does the next thing there is to do; None if there is nothing.

        Raises:
            RankingError: The server can't be reached, or gives what can't be used; call again to try again.
            ValueError, OSError: The store can't be read or written.
        """
        states = self._service.status(self._model_name)
        newest = max((version for version, status in states.items() if status.state == "AVAILABLE"), default=None)
        if newest is not None and newest != self._promoted:
            report = self._room_side.promote(newest, self._label)
            self._promoted, self._as_of_ms = newest, report.as_of_ms
            return report
        as_of_ms = self._store.as_of_ms
        if as_of_ms == self._as_of_ms or self._promoted is None:
            return None
        report = self._room_side.refresh()
        self._as_of_ms = report.as_of_ms
        return report
