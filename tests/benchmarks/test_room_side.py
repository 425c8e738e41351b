import math

import pytest

from benchmarks import room_side
from benchmarks.serving_rig.recipe import TINY


@pytest.mark.slow
def test_measures_refreshes_of_a_tiny_model():
    result = room_side.run(rounds=1, batch=16, recipe=TINY, options=("--poll-seconds", "0.02"))
    measured = result["goals"] + result["figures"]
    assert all(math.isfinite(one["value"]) and one["value"] > 0 for one in measured)
    values = {one["name"]: one for one in measured}
    whole = values["LMDB: seconds to refresh 40 live rooms"]["value"]
    parts = [values[f"LMDB: seconds of it to {part}"]["value"] for part in ("read", "forecast", "write")]
    assert sum(parts) == pytest.approx(whole)
