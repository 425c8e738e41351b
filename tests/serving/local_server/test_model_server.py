import socket

import pytest

from serving.local_server.model_config import ModelConfig
from serving.local_server.model_server import ModelServer
from serving.local_server.server_options import ServerOptions
from serving.local_server.serving_error import ServingError


@pytest.mark.parametrize("which", ["port", "rest_port"])
def test_a_port_that_is_taken_is_an_error_that_names_it(which):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            OSError, match=f"can't listen on 127.0.0.1:{port} for {'gRPC' if which == 'port' else 'REST'}"
        ):
            ModelServer([], ServerOptions(**{"port": 0, "rest_port": 0, which: port}))


def test_two_local_servers_never_share_a_port():
    first = ModelServer([], ServerOptions(port=0, rest_port=0))
    try:
        with pytest.raises(OSError, match="is another server using it"):
            ModelServer([], ServerOptions(port=int(first.address.rpartition(":")[2]), rest_port=0))
    finally:
        first.stop()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list { config { name: 'x' base_path: '/m' } }", "Illegal setting neither"),
        ("model_config_list { config { name: 'x' base_path: 'm' model_platform: 'tensorflow' } }", "an absolute path"),
        ("model_config_list { config { name: 'x' base_path: '/m' model_platform: 'other' } }", "no entry for platform"),
        ("nonsense", "is not a ModelServerConfig"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, text, message):
    (tmp_path / "models.config").write_text(text)
    with pytest.raises(ServingError, match=message):
        ModelConfig.from_file(tmp_path / "models.config")
