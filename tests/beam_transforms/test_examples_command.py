import pytest
from click.testing import CliRunner

from beam_transforms.examples_command import examples
from beam_transforms.sources.simulator import SimulatorConfig, simulate

AS_OF_MS = 1_748_888_100_000


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples") / "data"
    simulate(SimulatorConfig(users=60, authors=8, duration_s=1_800, start_ms=1_748_887_200_000), folder)
    return folder


def invoke(simulated, out, *arguments):
    result = CliRunner().invoke(examples, ["--input", str(simulated), "--out", str(out), *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_store_that_can_not_be_filled_is_refused_and_the_examples_stay(simulated, tmp_path):
    out, as_of = tmp_path / "out", ("--as-of-ms", str(AS_OF_MS))
    store = ("--store", str(tmp_path / "store"))
    result = invoke(simulated, out, *store, *as_of)
    assert result.exit_code == 0 and "live rooms" in result.output, result.output
    before = content(out)
    assert {"schema.json", "Span-485802/manifest.json"} <= set(before)
    for location, time_ms, message in (
        ("redis://127.0.0.1:1/0", AS_OF_MS, "no answer from the Redis server"),
        ("kafka://foo", AS_OF_MS, "kafka://...: no such online store"),
        (str(out / "schema.json"), AS_OF_MS, "schema.json isn't a folder; give a folder or redis://"),
        (str(out / "schema.json" / "store"), AS_OF_MS, "schema.json/store isn't a folder; give a folder or redis://"),
        (
            str(tmp_path / "store"),
            AS_OF_MS - 60_000,
            f"holds features as of {AS_OF_MS}, later than {AS_OF_MS - 60_000}",
        ),
    ):
        result = invoke(simulated, out, "--store", location, "--as-of-ms", str(time_ms))
        assert (result.exit_code, message in result.output) == (1, True), result.output
        assert "events" not in result.output
        assert content(out) == before


@pytest.mark.parametrize("time_ms", [AS_OF_MS // 1000, AS_OF_MS * 1000, 99999999999999999999, -1])
def test_times_that_are_not_milliseconds_are_refused(simulated, tmp_path, time_ms):
    result = invoke(simulated, tmp_path / "out", "--store", str(tmp_path / "store"), "--as-of-ms", str(time_ms))
    assert result.exit_code == 2
    assert f"expected milliseconds since the epoch, of a time from 2000 to 2099, got {time_ms}" in result.output
    assert not list(tmp_path.iterdir())


def test_spans_are_a_hundred_years_at_most(simulated, tmp_path):
    result = invoke(simulated, tmp_path / "out", "--span-hours", "9999999999999")
    assert (result.exit_code, "1<=x<=876600" in result.output) == (2, True)
