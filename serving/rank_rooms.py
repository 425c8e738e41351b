"""rank_rooms: one ranking, from the store's location and the server's address."""

from collections.abc import Sequence
from pathlib import Path

from serving.ranking import Ranking


def rank_rooms(
    user_id: int,
    live_ids: Sequence[int] | None = None,
    limit: int | None = None,
    *,
    store: str | Path,
    address: str,
    model_name: str,
    version: int | None = None,
    label: str | None = None,
    deadline_s: float = 5.0,
    root_certificates: bytes | Path | None = None,
) -> Ranking:
    """Opens the store, connects, ranks once and closes both: see `RankingClient`, which a service keeps open.

    Args:
        user_id: The user.
        live_ids: The candidates; all rooms that are live now by default.
        limit: Keep at most this many of the best.
        store: Folder of the online store, or redis://host:port/db.
        address: "host:port" of the model server's gRPC interface.
        model_name: The name under which the server knows the model.
        version: A version to insist on, instead of a label.
        label: Of the version to ask; "stable" by default.
        deadline_s: Seconds within which the ranking succeeds or fails.
        root_certificates: PEM certificates of the server's authority, or their file, for TLS.

    Raises:
        ValueError: An argument is out of range, or there is no store at the location.
        OSError: The store or the file of certificates can't be read.
        RankingError: There is no ranking; the message says why.
    """
    from beam_transforms.online_store import open_online_store
    from serving.client import STABLE, RankingClient

    with (
        open_online_store(store) as features,
        RankingClient(
            address, model_name, features, deadline_s=deadline_s, root_certificates=root_certificates
        ) as client,
    ):
        return client.rank(user_id, live_ids, limit, version=version, label=STABLE if label is None else label)
