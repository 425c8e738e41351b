"""The gRPC interface with TLS, by an SSLConfig as TensorFlow Serving takes it."""

import datetime
import ipaddress

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf import text_format

from serving.local_server.model_server import ModelServer
from serving.local_server.server_options import ServerOptions
from serving.local_server.tls_config import TlsConfig
from serving.protos import server_config_pb2

CHECK = "/grpc.health.v1.Health/Check"


def make_certificate(name):
    """(key, certificate) as PEM, signed by itself, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def pairs():
    return {name: make_certificate(name) for name in ("server", "client", "stranger")}


def write_config(path, **fields):
    config = server_config_pb2.SSLConfig(**fields)
    path.write_text(text_format.MessageToString(config))
    return path


@pytest.fixture(scope="module")
def secured(serve_local, pairs, tmp_path_factory):
    """client_verify -> server; without REST, which has no TLS."""
    servers = {}

    def get(client_verify):
        if client_verify not in servers:
            key, certificate = pairs["server"]
            path = write_config(
                tmp_path_factory.mktemp("tls") / "ssl.config",
                server_key=key,
                server_cert=certificate,
                custom_ca=pairs["client"][1] if client_verify else "",
                client_verify=client_verify,
            )
            servers[client_verify] = serve_local(ssl_config=path, rest_port=None)
        return servers[client_verify]

    return get


def check(server, credentials):
    with grpc.secure_channel(server.address, credentials) as channel:
        return channel.unary_unary(CHECK)(b"", timeout=3)


def test_a_client_that_trusts_the_certificate_is_answered(secured, pairs):
    server = secured(False)
    assert server.rest_address is None
    assert check(server, grpc.ssl_channel_credentials(pairs["server"][1])) == b"\x08\x01"


def test_a_client_that_does_not_or_speaks_plainly_is_not(secured, pairs):
    server = secured(False)
    with pytest.raises(grpc.RpcError) as caught:
        check(server, grpc.ssl_channel_credentials(pairs["stranger"][1]))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(CHECK)(b"", timeout=3)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_client_certificates_are_checked_where_they_are_wanted(secured, pairs):
    server = secured(True)
    trusted = pairs["server"][1]
    known = grpc.ssl_channel_credentials(trusted, *pairs["client"])
    assert check(server, known) == b"\x08\x01"
    for credentials in (
        grpc.ssl_channel_credentials(trusted),
        grpc.ssl_channel_credentials(trusted, *pairs["stranger"]),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            check(server, credentials)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server_key: '/etc/key.pem' server_cert: '/etc/cert.pem'", "server_key in .* must be PEM text.*not its path"),
        ("", "server_key in .* must be PEM text, got 0 characters"),
        ("key: 'x'", "is not an SSLConfig"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, text, message):
    (tmp_path / "ssl.config").write_text(text)
    with pytest.raises(ValueError, match=message):
        TlsConfig.from_file(tmp_path / "ssl.config")


def test_client_certificates_need_an_authority(tmp_path, pairs):
    key, certificate = pairs["server"]
    path = write_config(tmp_path / "ssl.config", server_key=key, server_cert=certificate, client_verify=True)
    with pytest.raises(ValueError, match="client_verify needs custom_ca"):
        TlsConfig.from_file(path).credentials()


def test_a_certificate_that_cannot_be_read_is_an_error_that_names_the_file(tmp_path, pairs):
    broken = "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n"
    path = write_config(tmp_path / "ssl.config", server_key=pairs["server"][0], server_cert=broken)
    with pytest.raises(OSError, match=f"certificate in {path} no valid PEM"):
        ModelServer([], ServerOptions(port=0, rest_port=None, ssl_config=path))
