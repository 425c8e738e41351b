import pytest

from benchmarks import publish


@pytest.mark.slow  # it exports two models
def test_measures_pushes_against_cp_and_deltas_against_full_copies(monkeypatch, tmp_path):
    monkeypatch.setattr(publish, "_demo_ranker", lambda: publish._large_ranker(1000))
    monkeypatch.setattr(publish, "_WINDOW", 64)
    monkeypatch.setattr(publish.tempfile, "tempdir", str(tmp_path))
    result = publish.run(rounds=2, parameters=1_000_000)
    assert [goal["runs"] for goal in result["goals"]] == [2, 2, 2, 2]
    assert all(goal["value"] > 0 for goal in result["goals"])
    large = result["medians"]["large"]
    assert large["parameters"] == pytest.approx(1_000_000, rel=1e-3)
    assert large["cp_s"] < large["cp_fsync_s"]
    assert not [left for left in tmp_path.iterdir() if left.is_dir()]  # TensorFlow leaves files of its own


@pytest.mark.slow  # importing the demo takes seconds
def test_the_demo_model_is_the_one_of_the_demo():
    """The benchmark repeats the demo's settings; they mustn't drift apart."""
    from tfx_pipeline import demo

    content = publish._DEMO_CONTENT
    assert content["codes"] == demo._CODES
    assert (content["semantic_id_length"], content["product_length"]) == demo._CONTENT_LENGTHS
