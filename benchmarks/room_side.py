"""The room side: seconds to compute and store the foresight vectors of 10,000 live rooms after a window.

The model has the demo's schema and settings (variant "all"), with random weights, and runs in the local server on the
same machine; the store is a folder (LMDB), then a Redis server. Each window changes all rooms.
"""

from collections.abc import Callable, Sequence
from typing import Any

import click
import numpy as np

from beam_transforms.local_redis import HOW_TO_INSTALL, LocalRedis
from beam_transforms.online_store import OnlineStore, open_online_store
from beam_transforms.schema import WINDOW_MS
from benchmarks.harness import figure, goal, report
from benchmarks.serving_rig.recipe import BEGIN_MS, DEMO, MODEL_NAME, Recipe
from benchmarks.serving_rig.rig import ServingRig
from serving.room_side import RoomSide
from serving.room_side_report import RoomSideReport

OPTIONS: list[click.Option] = [
    click.Option(["--rounds"], type=click.IntRange(1), default=5, show_default=True, help="Windows for each store."),
    click.Option(["--batch"], type=click.IntRange(1), default=512, show_default=True, help="Rooms a request."),
]


def run(rounds: int = 5, batch: int = 512, recipe: Recipe = DEMO, options: Sequence[str] = ()) -> dict[str, Any]:
    """Seconds of a refresh, and what they are spent on."""
    goals: list[dict[str, Any]] = []
    figures: list[dict[str, Any]] = []

    def measure(name: str, store: OnlineStore, write_window: Callable[[], None]) -> None:
        with RoomSide(store, rig.server.address, MODEL_NAME, model_config=None, batch=batch) as room_side:
            room_side.promote(rig.versions[0])
            reports = [_refresh(room_side, write_window, recipe) for _ in range(rounds + 1)][1:]  # the first is cold
        seconds = [done.read_s + done.forecast_s + done.write_s for done in reports]
        goals.append(goal(f"{name}: seconds to refresh {recipe.rooms:,} live rooms", seconds, "<=", 5.0))
        for part in ("read", "forecast", "write"):
            figures.append(figure(f"{name}: seconds of it to {part}", [getattr(done, f"{part}_s") for done in reports]))

    with ServingRig(recipe, options) as rig:
        measure("LMDB", rig.store, rig.write_window)
        width = rig.store.rank_request(0, [0]).foresight.shape[1]
        if LocalRedis.installed():
            with LocalRedis() as server, open_online_store(server.url, readonly=False) as store:
                measure("Redis", store, _writer(store, recipe))
    figures.append(figure("numbers in a foresight vector", [width]))
    result = report("room-side", goals, "numpy", "lmdb", "redis", "grpcio", "tensorflow", figures=figures)
    if not LocalRedis.installed():
        result["left_out"] = f"Redis: {HOW_TO_INSTALL}"
    return result


def _refresh(room_side: RoomSide, write_window: Callable[[], None], recipe: Recipe) -> RoomSideReport:
    write_window()
    done = room_side.refresh()
    if done.rooms != recipe.rooms:
        raise RuntimeError(f"{done.rooms} rooms were refreshed, expected {recipe.rooms}")
    return done


def _writer(store: OnlineStore, recipe: Recipe) -> Callable[[], None]:
    """What writes the next window of all rooms; the first one is written here."""
    windows = iter(range(1_000_000))

    def write() -> None:
        window = next(windows)
        store.write(recipe.schema, BEGIN_MS + window * WINDOW_MS, recipe.tables(window), np.arange(recipe.rooms))

    write()
    return write
