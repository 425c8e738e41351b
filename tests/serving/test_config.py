"""The files of serving/config/: what the protos say of them, and that they agree with each other."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.local_server.batching_parameters import BatchingParameters
from serving.local_server.model_config import ModelConfig
from serving.protos import server_config_pb2

CONFIG = Path(__file__).parents[2] / "serving" / "config"

FLAGS = frozenset(
    """port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
    enable_batching allow_version_labels_for_unavailable_models batching_parameters_file
    enable_per_model_batching_parameters model_config_file model_config_file_poll_wait_seconds model_name
    model_base_path num_load_threads num_unload_threads max_num_load_retries load_retry_interval_micros
    file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism
    tensorflow_session_config_file tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism
    use_alts_credentials ssl_config_file platform_config_file per_process_gpu_memory_fraction saved_model_tags
    grpc_channel_arguments grpc_max_threads enable_model_warmup num_request_iterations_for_warmup version
    monitoring_config_file remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools
    num_tflite_interpreters_per_pool enable_signature_method_name_check xla_cpu_compilation_enabled
    xla_gpu_compilation_enabled enable_profiler thread_pool_factory_config_file mixed_precision skip_initialize_tpu
    enable_grpc_healthcheck_service enable_serialization_as_tensor_content""".split()  # noqa: SIM905 - as a text it is readable
)
"""All of tensorflow_model_server 2.20 (tensorflow_serving/model_servers/main.cc)."""


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((CONFIG / "docker-compose.yaml").read_text())


@pytest.fixture(scope="module")
def kubernetes():
    """(kind, name) -> document."""
    documents = list(yaml.safe_load_all((CONFIG / "kubernetes.yaml").read_text()))
    named = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(named) == len(documents)
    return named


@pytest.fixture(scope="module")
def container(kubernetes):
    (container,) = kubernetes["Deployment", "tensorflow-serving"]["spec"]["template"]["spec"]["containers"]
    return container


def flags(arguments):
    pairs = [re.fullmatch(r"--(\w+)=(\S+)", argument).groups() for argument in arguments]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_models_have_labels_and_versions_for_a_comparison():
    config = text_format.Parse((CONFIG / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("live_ranker", "/models/live_ranker", "tensorflow")
    assert dict(model.version_labels) == {"stable": 1, "canary": 1}
    assert model.model_version_policy.latest.num_versions == 2
    (read,) = ModelConfig.from_file(CONFIG / "models.config")
    assert read == ModelConfig("live_ranker", Path("/models/live_ranker"), latest=2, labels={"stable": 1, "canary": 1})


def test_monitoring_and_batching_are_what_the_protos_take():
    monitoring = text_format.Parse((CONFIG / "monitoring.config").read_text(), server_config_pb2.MonitoringConfig())
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"
    parameters = BatchingParameters.from_file(CONFIG / "batching.config")
    assert parameters.max_batch_size >= 300  # else a request for 300 rooms is refused
    assert parameters.max_batch_size % 300 == 0


@pytest.mark.parametrize("message", ["BatchingParameters", "SSLConfig", "MonitoringConfig"])
def test_own_messages_have_the_numbers_of_the_originals(message):
    originals = {
        "BatchingParameters": {
            "max_batch_size": 1,
            "batch_timeout_micros": 2,
            "max_enqueued_batches": 3,
            "num_batch_threads": 4,
            "thread_pool_name": 5,
            "allowed_batch_sizes": 6,
            "pad_variable_length_inputs": 7,
            "enable_large_batch_splitting": 8,
            "max_execution_batch_size": 9,
        },
        "SSLConfig": {"server_key": 1, "server_cert": 2, "custom_ca": 3, "client_verify": 4},
        "MonitoringConfig": {"prometheus_config": 1},
    }
    fields = server_config_pb2.DESCRIPTOR.message_types_by_name[message].fields
    assert {field.name: field.number for field in fields} == originals[message]


def test_every_flag_is_one_that_the_server_has(compose, container):
    service = compose["services"]["tensorflow-serving"]
    commented = re.findall(r"# - --(\w+)=", (CONFIG / "docker-compose.yaml").read_text())
    assert commented == ["enable_batching", "batching_parameters_file"]
    for arguments in (flags(service["command"]), flags(container["args"]), commented):
        assert set(arguments) <= FLAGS


def test_labels_in_the_file_need_their_flag(compose, container):
    for arguments in (flags(compose["services"]["tensorflow-serving"]["command"]), flags(container["args"])):
        assert arguments["allow_version_labels_for_unavailable_models"] == "true"


def test_compose_reaches_only_the_loopback_and_mounts_what_is_named(compose):
    services = compose["services"]
    for service in services.values():
        assert service["ports"]
        for port in service["ports"]:
            assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)
        assert service["user"].split(":")[0] not in ("0", "root")
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
    server = services["tensorflow-serving"]
    given = flags(server["command"])
    assert [given["port"], given["rest_api_port"]] == [port.split(":")[2] for port in server["ports"]]
    mounted = {}
    for volume in server["volumes"]:
        source, target = volume.removesuffix(":ro").rsplit(":", 1)
        mounted[target] = source
    assert "/models" in mounted
    for name in ("model_config_file", "monitoring_config_file"):
        assert (CONFIG / mounted[given[name]]).is_file()
    assert (CONFIG / mounted["/config/batching.config"]).is_file()
    probe = server["healthcheck"]["test"]
    assert f"/127.0.0.1/{given['rest_api_port']}" in probe[3] and "/v1/models/live_ranker" in probe[3]
    assert shlex.split(probe[3])


def test_kubernetes_has_the_same_configuration_as_the_files(kubernetes):
    data = kubernetes["ConfigMap", "serving-config"]["data"]
    for name, kind in (
        ("models.config", model_server_config_pb2.ModelServerConfig),
        ("monitoring.config", server_config_pb2.MonitoringConfig),
    ):
        assert text_format.Parse(data[name], kind()) == text_format.Parse((CONFIG / name).read_text(), kind())
    assert set(data) == {"models.config", "monitoring.config"}


def test_kubernetes_names_and_ports_agree(kubernetes, container):
    given = flags(container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": int(given["port"]), "rest": int(given["rest_api_port"])}
    service = kubernetes["Service", "serving"]["spec"]
    assert {port["name"]: port["port"] for port in service["ports"]} == ports
    assert {port["targetPort"] for port in service["ports"]} <= set(ports)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    pod = kubernetes["Deployment", "tensorflow-serving"]["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts) == set(volumes)
    assert ("PersistentVolumeClaim", volumes["models"]["persistentVolumeClaim"]["claimName"]) in kubernetes
    files = kubernetes["ConfigMap", volumes["config"]["configMap"]["name"]]["data"]
    for name in ("model_config_file", "monitoring_config_file"):
        folder, _, file = given[name].rpartition("/")
        assert folder == mounts["config"] and file in files
    assert mounts["models"] == "/models"
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "rest"
        assert container[probe]["httpGet"]["path"].startswith("/v1/models/live_ranker")
    assert container["livenessProbe"]["grpc"]["port"] == ports["grpc"]


def test_kubernetes_lets_nobody_in_from_other_namespaces_but_for_metrics(kubernetes):
    (policy,) = [document["spec"] for (kind, _), document in kubernetes.items() if kind == "NetworkPolicy"]
    assert (policy["podSelector"], policy["policyTypes"]) == ({}, ["Ingress"])
    own, monitoring = policy["ingress"]
    assert own == {"from": [{"podSelector": {}}]}
    named = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert monitoring == {"from": [named], "ports": [{"port": "rest"}]}


def test_kubernetes_stays_within_the_cluster_and_without_root(kubernetes):
    for (kind, name), document in kubernetes.items():
        if kind == "Service":
            assert document["spec"].get("type", "ClusterIP") == "ClusterIP", name
            selector = document["spec"]["selector"]
            assert any(
                other["spec"]["template"]["metadata"]["labels"].items() >= selector.items()
                for (other_kind, _), other in kubernetes.items()
                if other_kind == "Deployment"
            )
        if kind == "Deployment":
            pod = document["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
            assert document["spec"]["selector"]["matchLabels"] == document["spec"]["template"]["metadata"]["labels"]
            for container in pod["containers"]:
                assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["memory"]
                assert container["securityContext"]["readOnlyRootFilesystem"]
                assert not container["securityContext"]["allowPrivilegeEscalation"]
