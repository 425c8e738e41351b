"""The option files of the distributed runners: Beam knows every option, and what has to be given is asked for."""

import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner

from beam_transforms import runner_options
from beam_transforms.runner_options import runner_flags

GIVEN = {
    "flink": {"job_endpoint": "localhost:8099"},
    "dataflow": {
        "project": "streams",
        "region": "europe-west1",
        "temp_location": "gs://streams/temp",
        "sdk_container_image": "registry/live-foresight:1",
    },
    "spark": {"spark_master_url": "spark://localhost:7077"},
}
JOB_SERVER = {
    "checkpointing_interval",
    "externalized_checkpoints_enabled",
    "retain_externalized_checkpoints_on_cancellation",
    "max_bundle_size",
    "max_bundle_time_mills",
}
"""Options that only Flink's job server knows, and tells Beam of when a pipeline is submitted: `make test-flink`."""


def _file(runner: str) -> dict[str, object]:
    return yaml.safe_load((runner_options._FOLDER / f"{runner}.yaml").read_text())


def test_there_is_a_case_for_each_file() -> None:
    assert {path.stem for path in runner_options._FOLDER.glob("*.yaml")} == set(GIVEN)


@pytest.mark.parametrize("runner", GIVEN)
def test_beam_reads_each_option_as_it_stands_in_the_file(runner: str) -> None:
    read = PipelineOptions(runner_flags(runner, **GIVEN[runner])).get_all_options()
    for name, value in (_file(runner) | GIVEN[runner]).items():
        if name not in JOB_SERVER:
            assert name in read, f"Beam has no option {name}"
            assert read[name] == value, name


def test_only_flinks_options_are_left_to_the_job_server() -> None:
    known = PipelineOptions([]).get_all_options()
    assert {name for runner in GIVEN for name in _file(runner) if name not in known} == JOB_SERVER


@pytest.mark.parametrize("runner", ["flink", "spark"])
def test_beam_has_the_runner(runner: str) -> None:
    assert create_runner(str(_file(runner)["runner"])) is not None


@pytest.mark.parametrize("runner", GIVEN)
def test_each_open_option_is_asked_for(runner: str) -> None:
    for name in GIVEN[runner]:
        with pytest.raises(ValueError, match=f"^{name} must be given for the runner '{runner}'"):
            runner_flags(runner, **{other: value for other, value in GIVEN[runner].items() if other != name})


def test_a_given_value_replaces_the_files() -> None:
    assert "--parallelism=8" in runner_flags("flink", parallelism=8, **GIVEN["flink"])


def test_an_unknown_runner_is_refused() -> None:
    with pytest.raises(ValueError, match="runner 'prism'; there are some for dataflow, flink, spark"):
        runner_flags("prism")
