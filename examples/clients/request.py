"""Writes what the other examples send: the features of a user and the live rooms, as the body of a REST request.

python examples/clients/request.py --user 17 --store build/demo/online_store build/request.json
"""

import argparse
import json
from pathlib import Path

from beam_transforms.online_store import open_online_store


def main(store: str, user: int, limit: int, path: Path) -> None:
    """Columns of rows, a row for each room: {"inputs": {"user_id": [17, 17], "context": [[0.1, ...], ...], ...}}."""
    with open_online_store(store) as features:
        request = features.rank_request(user, features.live_ids[:limit])
    path.write_text(json.dumps({"inputs": {name: values.tolist() for name, values in request.inputs.items()}}))
    print(f"{path}: {len(request.live_ids)} rooms; row 0 is room {request.live_ids[0]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--store", default="build/demo/online_store")
    parser.add_argument("--user", type=int, default=17)
    parser.add_argument("--limit", type=int, default=300, help="at most so many rooms")
    arguments = parser.parse_args()
    main(arguments.store, arguments.user, arguments.limit, arguments.path)
