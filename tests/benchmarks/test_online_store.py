from beam_transforms.local_redis import LocalRedis
from benchmarks import online_store


def test_measures_the_folder_and_says_what_it_left_out(monkeypatch):
    monkeypatch.setattr(LocalRedis, "installed", staticmethod(lambda: False))
    result = online_store.run(rooms=1000, windows=1)
    assert {figure["name"].partition(":")[0] for figure in result["figures"]} == {"LMDB"}
    assert (
        all(figure["value"] > 0 for figure in result["figures"])
        and "apt-get install redis-server" in result["left_out"]
    )
