"""Beam's Java expansion service with KafkaIO, and the Java worker that runs what it expands."""

from pathlib import Path

from .java_process import JavaProcess, answers, free_port


class ExpansionService:
    """Expands `ReadFromKafka`, for the length of a `with` block; its Java steps run in the same process.

    Without that the Java steps would be started in Docker.

    Args:
        folder: Where the log is written.

    Attributes:
        address: host:port, the `expansion_service` of `ReadFromKafka`.
    """

    def __init__(self, folder: Path, experiments: tuple[str, ...] = ("use_deprecated_read",)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        command = ["org.apache.beam.sdk.expansion.service.ExpansionService", str(port)]
        command += ["--javaClassLookupAllowlistFile=*", "--defaultEnvironmentType=EMBEDDED"]
        command += [f"--experiments={','.join(experiments)}"]
        self._process = JavaProcess("expansion-service", "cluster", command, folder, 512)
        self._process.wait_for(lambda: answers(port))

    def __enter__(self) -> "ExpansionService":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()
