from benchmarks import client


def test_measures_imports_and_rankings():
    result = client.run(rounds=1, rooms=300)
    assert [goal["goal"] for goal in result["goals"]] == [0.5, 0.5]
    assert all(measured["value"] > 0 for measured in [*result["goals"], *result["figures"]])
