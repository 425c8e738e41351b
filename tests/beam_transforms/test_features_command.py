import json

from click.testing import CliRunner

from beam_transforms.features_command import features
from tests.beam_transforms.stored_tables import BEGIN_MS, fill


def test_features_shows_what_is_stored_by_name(location):
    fill(location, value=2)
    result = CliRunner().invoke(features, ["--store", location, "--live-id", "12", "--user-id", "1"])
    assert result.exit_code == 0, result.output
    for part in (
        "6 live rooms; features as of 2025-06-15 15:06:30 UTC",
        "live_id 12, written",
        "user_id 1, live_id 12",
    ):
        assert part in result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["like", "2", "2"] in [line[:3] for line in lines] and ["like_count_60s", "2"] in lines
    assert ["author_id", "1006"] in lines and ["like_age_s", "0.001"] in lines
    found = json.loads(
        CliRunner().invoke(features, ["--store", location, "--live-id", "99", "--user-id", "1", "--json"]).output
    )
    assert (found["live"], found["as_of_ms"], found["metrics"]) == (False, BEGIN_MS, ["like", "comment"])
    room, user, pair = found["records"]
    assert (room["key"], room["written_ms"], room["features"]) == ({"live_id": 99}, None, {})
    assert user["features"]["user_counts"]["gift_sum"] == 2 and user["features"]["entered_authors"] == [2, 2, 2]
    assert pair["key"] == {"user_id": 1, "live_id": 99}


def test_features_ends_with_clear_errors(tmp_path):
    for arguments, code, message in (
        (["--store", str(tmp_path / "none"), "--live-id", "1"], 1, "no online store here"),
        (["--store", "redis://127.0.0.1:1", "--live-id", "1"], 1, "no answer from the Redis server"),
        (["--store", str(tmp_path)], 2, "give --live-id, --user-id or both"),
        (["--store", str(tmp_path), "--live-id", str(2**63)], 2, "0<=x<=9223372036854775807"),
        (["--store", str(tmp_path), "--user-id", "-1"], 2, "0<=x<=9223372036854775807"),
    ):
        result = CliRunner().invoke(features, arguments)
        assert (result.exit_code, message in result.output, "Traceback" in result.output) == (code, True, False)
