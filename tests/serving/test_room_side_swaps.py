"""Requests while versions are swapped: no answer is made of one version's vectors and another one's ranker.

`forecast` writes its version into the vectors, and `rank` answers with the difference between its own version and that
of the vectors; each version has vectors of another width than the one before.
"""

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest

from beam_transforms.online_store import open_online_store
from beam_transforms.schema import WINDOW_MS
from serving.client import RankingClient
from serving.protos import serving_api_pb2 as api
from serving.room_side import RoomSide
from tests.beam_transforms.stored_tables import ROOMS, SMALL_SCHEMA, USERS, fill, tables

_SEQUENCES = ("statistic_sequence", "statistic_mask")
_RAW = 1000.0
"""What `serving_default` answers: nothing in this test is to be scored by it."""


def _export(folder: Path, version: int) -> None:
    import tensorflow as tf

    specs = {f.name: tf.TensorSpec((None, *f.shape), f.dtype, name=f.name) for f in SMALL_SCHEMA.inputs}
    size = 2 + version % 3
    module = tf.Module()
    module.version = tf.Variable(float(version))

    def by_task(ctr):
        return {"ctr": ctr, "evtr": tf.zeros_like(ctr)}

    @tf.function(input_signature=[{name: specs[name] for name in _SEQUENCES}])
    def forecast(inputs):
        return {"foresight": module.version + tf.zeros((tf.shape(inputs["statistic_mask"])[0], size))}

    @tf.function(
        input_signature=[
            {name: spec for name, spec in specs.items() if name not in _SEQUENCES}
            | {"foresight": tf.TensorSpec((None, size), tf.float32, name="foresight")}
        ]
    )
    def rank(inputs):
        return by_task(tf.reduce_max(tf.abs(module.version - inputs["foresight"]), axis=1))

    @tf.function(input_signature=[specs])
    def serving_default(inputs):
        return by_task(_RAW + 0 * tf.reduce_sum(inputs["statistic_mask"], axis=1))

    beside = folder.with_name(f".beside-{version}")
    signatures = {"serving_default": serving_default, "forecast": forecast, "rank": rank}
    tf.saved_model.save(module, str(beside), signatures=signatures)
    beside.rename(folder)


@pytest.mark.parametrize("swaps", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_an_answer_is_of_one_version_while_versions_are_swapped(served, tmp_path, swaps):
    base = tmp_path / f"swapped{swaps}"
    base.mkdir()
    fill(tmp_path / "store")
    config = api.ModelConfig(name=base.name, base_path=str(base), model_platform="tensorflow")
    config.model_version_policy.latest.num_versions = 2
    address, ended = served.running.address, threading.Event()
    answers: list[tuple[int, float, int]] = []
    errors: list[BaseException] = []

    def ask(user):
        try:
            with (
                open_online_store(tmp_path / "store") as store,
                RankingClient(address, base.name, store, deadline_s=20.0) as client,
            ):
                while not ended.is_set():
                    ranking = client.rank(user)
                    answers.append((ranking.version, max(r.scores["ctr"] for r in ranking.rooms), len(ranking.rooms)))
        except BaseException as error:
            errors.append(error)

    with (
        open_online_store(tmp_path / "store", readonly=False) as store,
        RoomSide(store, address, base.name, model_config=config) as room_side,
    ):
        threads = [threading.Thread(target=ask, args=(user,)) for user in (0, 1)]
        try:
            for version in range(1, swaps + 2):
                _export(base / str(version), version)
                served.service.reload([config])  # it looks at the disk at once
                served.service.wait_for_version(base.name, version, 20.0)
                room_side.promote(version)
                if version == 1:
                    for thread in threads:
                        thread.start()
                as_of_ms = store.as_of_ms + WINDOW_MS
                changed = tables(SMALL_SCHEMA, ROOMS[version % 3 :], USERS, as_of_ms, seed=version)
                store.write(SMALL_SCHEMA, as_of_ms, changed, ROOMS)
                assert room_side.refresh().rooms == len(ROOMS[version % 3 :])
                asked = len(answers)
                while len(answers) < asked + 4 and not errors:
                    ended.wait(0.005)
        finally:
            ended.set()
            for thread in threads:
                if thread.ident:
                    thread.join()
        assert not errors, errors
        assert store.served.labels == {"stable": swaps + 1}
        assert set(store.foresight_versions) == {swaps, swaps + 1}
    versions = [version for version, *_ in answers]
    assert set(versions) == set(range(1, swaps + 2)) and len(answers) > 4 * swaps
    assert {difference for _, difference, _ in answers} == {0.0} and {rooms for *_, rooms in answers} == {len(ROOMS)}
    assert sum(np.diff([next(group)[0] for _, group in itertools.groupby(answers, key=lambda a: a[0])]) > 0) >= swaps
