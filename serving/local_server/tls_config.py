"""TlsConfig: keys and certificates of the gRPC interface."""

import dataclasses
from pathlib import Path

import grpc
from google.protobuf import text_format

from serving.protos import server_config_pb2


@dataclasses.dataclass(frozen=True)
class TlsConfig:
    """What TensorFlow Serving's SSLConfig says; keys and certificates are PEM text.

    Attributes:
        custom_ca: Certificates that clients' certificates are checked against; "" for the system's.
        client_verify: Whether a client needs a certificate.
    """

    server_key: str
    server_cert: str
    custom_ca: str = ""
    client_verify: bool = False

    @classmethod
    def from_file(cls, path: Path) -> "TlsConfig":
        """From a file as TensorFlow Serving's --ssl_config_file: an SSLConfig as text.

        Raises:
            OSError: The file can't be read.
            ValueError: It isn't an SSLConfig, or has no key or certificate.
        """
        config = server_config_pb2.SSLConfig()
        try:
            text_format.Parse(path.read_text(), config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not an SSLConfig: {error}") from error
        for name in ("server_key", "server_cert"):
            if "-----BEGIN" not in getattr(config, name):
                raise ValueError(
                    f"{name} in {path} must be PEM text, got {len(getattr(config, name))} characters without a PEM "
                    "heading; put in the contents of the file, not its path"
                )
        return cls(config.server_key, config.server_cert, config.custom_ca, config.client_verify)

    def credentials(self) -> grpc.ServerCredentials:
        """What gRPC takes.

        Raises:
            ValueError: Client certificates are wanted, but nothing that they could be checked against.
        """
        if self.client_verify and not self.custom_ca:
            raise ValueError("client_verify needs custom_ca: the certificates that clients' are checked against")
        return grpc.ssl_server_credentials(
            [(self.server_key.encode(), self.server_cert.encode())],
            root_certificates=self.custom_ca.encode() or None,
            require_client_auth=self.client_verify,
        )
