"""RoomFollower: runs the room-side job when the model server or the online store has something new."""

from beam_transforms.online_store import OnlineStore
from serving.model_service_client import ModelServiceClient
from serving.room_side import RoomSide
from serving.room_side_report import RoomSideReport


class RoomFollower:
    """Promotes the newest version that a server has, and refreshes vectors when the store's windows move on.

    The first step promotes in any case: what a job before it left undone is done then. While versions are compared (a
    canary), nothing is to be promoted: labels stay, and vectors of all versions that have one are refreshed. So are
    those of a store that was replaced, whether or not its windows have moved on.

    Args:
        room_side: The job.
        service: The model server.
        store: The online store.
        model_name: The model.
        label: The label that follows the newest version; None promotes nothing.
    """

    def __init__(
        self,
        room_side: RoomSide,
        service: ModelServiceClient,
        store: OnlineStore,
        model_name: str,
        label: str | None = "stable",
    ) -> None:
        self._room_side, self._service, self._store = room_side, service, store
        self._model_name, self._label = model_name, label
        self._promoted: int | None = None
        self._refreshed: tuple[int, dict[str, int]] | None = None  # the window, and labels, that vectors are up to
        self._stored: set[int] = set()  # the versions that had vectors then

    def step(self) -> RoomSideReport | None:
        """Does the next thing there is to do; None if there is nothing.

        Raises:
            RankingError: The server can't be reached, or gives what can't be used; call again to try again.
            ValueError, OSError: The store can't be read or written.
        """
        if self._label is not None:
            states = self._service.status(self._model_name)
            newest = max((version for version, status in states.items() if status.state == "AVAILABLE"), default=None)
            if newest is not None and newest != self._promoted:
                report = self._room_side.promote(newest, self._label)
                labels = dict(self._store.served.labels)
                others = set(labels.values()) - {newest}  # still to be refreshed
                self._promoted = newest
                self._note(report, None if others else labels)
                return report
            if self._promoted is None:
                return None
        labels = dict(self._store.served.labels)
        if (self._store.as_of_ms, labels) == self._refreshed and not self._is_replaced():
            return None
        report = self._room_side.refresh()
        self._note(report, labels)
        return report

    def _note(self, report: RoomSideReport, labels: dict[str, int] | None) -> None:
        sizes = self._store.served.foresight_sizes
        self._refreshed = None if labels is None else (report.as_of_ms, labels)
        self._stored = {version for version in report.versions if sizes.get(version)}

    def _is_replaced(self) -> bool:
        """Whether vectors have gone that were stored: a batch run drops them all, also one as of the same time."""
        gone = self._stored.difference(self._store.foresight_versions)
        return bool(gone) and len(self._store.live_ids) > 0  # without rooms there are none to store
