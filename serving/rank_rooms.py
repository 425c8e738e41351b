"""rank_rooms: one ranking, from the store's location and the server's address. Importing it loads no library."""

from collections.abc import Sequence
from pathlib import Path

from serving.ranking import Ranking

DEFAULT_ADDRESS = "127.0.0.1:8500"
DEFAULT_MODEL_NAME = "live_ranker"
DEFAULT_STORE = Path("build/demo/online_store")


def rank_rooms(
    user_id: int,
    live_ids: Sequence[int] | None = None,
    limit: int | None = None,
    *,
    store: str | Path = DEFAULT_STORE,
    address: str = DEFAULT_ADDRESS,
    model_name: str = DEFAULT_MODEL_NAME,
    version: int | None = None,
    label: str | None = None,
    deadline_s: float = 5.0,
    root_certificates: bytes | Path | None = None,
) -> Ranking:
    """Ranks rooms for a user, once, as the command `foresight rank` does; `foresight.rank` is this function.

    It needs grpcio, protobuf, numpy, and lmdb or redis. The store and the connection are opened and closed again: a
    service keeps a `serving.client.RankingClient` instead.

    ```python
    import foresight

    for room in foresight.rank(17, limit=5).rooms:
        print(room.live_id, room.score)
    ```

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

    Returns:
        Rooms, best first, and the version that scored them.

    Raises:
        ValueError: An argument is out of range, or there is no store at the location.
        OSError: The store or the file of certificates can't be read.
        serving.ranking_error.RankingError: There is no ranking; the message says why.
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
