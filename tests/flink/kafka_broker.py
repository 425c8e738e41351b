"""A Kafka broker on this machine."""

import base64
import subprocess
import uuid
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from .java_process import JARS, JavaProcess, answers, free_port, require_java


class KafkaBroker:
    """One broker that is its own controller (KRaft), for the length of a `with` block.

    Args:
        folder: Where its log, its settings and its topics are kept.

    Attributes:
        address: host:port for clients.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        port, controller_port = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        settings = folder / "server.properties"
        values = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(folder / "topics"),
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "log.retention.ms": "-1",
        }
        settings.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        require_java("broker")
        format_topics = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings)]
        subprocess.run(
            ["java", "-cp", f"{JARS / 'broker'}/*", *format_topics], check=True, capture_output=True, timeout=60
        )
        quiet = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        self._process = JavaProcess("broker", "broker", ["kafka.Kafka", str(settings)], folder, 384, quiet)
        self._process.wait_for(lambda: answers(port))

    def create_topic(self, name: str, partitions: int) -> None:
        """Makes a topic; timestamps of its records are those that producers give."""
        admin = KafkaAdminClient(bootstrap_servers=self.address)
        try:
            admin.create_topics([NewTopic(name, partitions, 1, topic_configs={"retention.ms": "-1"})])
        finally:
            admin.close()

    def __enter__(self) -> "KafkaBroker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()
