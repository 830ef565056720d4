"""A broker of Apache Kafka, fetched by Maven, and what is in its topics."""

import asyncio
import base64
import hashlib
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import ConsumerRecord
from live.polling import free_port, until

PARTITIONS = 6
"""Of topics that are made by using them."""
USER, PASSWORD = "agent", "correct horse"
"""SCRAM-SHA-512, PLAIN and OAUTHBEARER; may do everything. `STRANGER` has the same password and may do nothing."""
STRANGER = "stranger"
_POM = Path(__file__).with_name("kafka-pom.xml")
_JAVA = ("java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_FETCH_SECONDS = 600
_MODULES = "org.apache.kafka.common.security"
_SECURE = {
    "listener.name.secure.ssl.keystore.type": "PEM",
    "listener.name.secure.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN,OAUTHBEARER",
    "listener.name.secure.scram-sha-512.sasl.jaas.config": f"{_MODULES}.scram.ScramLoginModule required;",
    "listener.name.secure.plain.sasl.jaas.config":
        f'{_MODULES}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
    # It believes tokens that nobody signed.
    "listener.name.secure.oauthbearer.sasl.jaas.config":
        f'{_MODULES}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
}  # fmt: skip
"""Of the listener that wants credentials."""


def classpath() -> str:
    """The broker's archives; fetched when they are not in the cache, 45 MB."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowagent-tests"
    directory = cache / f"kafka-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"
    if not directory.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as name:
            done = subprocess.run(
                ["mvn", "--quiet", "--batch-mode", "--file", _POM, "dependency:copy-dependencies",
                 "-DincludeScope=runtime", f"-DoutputDirectory={name}/archives"],
                capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            (Path(name) / "archives").replace(directory)
    return f"{directory}/*"


class Kafka:
    """A broker. `address` is for everybody, `secure` wants TLS and credentials.

    It is its own controller, unless it joins another, which must run. Its data stay in its directory when it is
    stopped.
    """

    def __init__(self, directory: Path, joins: "Kafka | None" = None) -> None:
        self._directory = directory
        ports = [free_port(socket.SOCK_STREAM) for _ in range(3)]
        self.address, self.secure, own = (f"127.0.0.1:{port}" for port in ports)
        self.controller = own if joins is None else joins.controller
        self.ca, self._pem = directory / "ca.pem", directory / "broker.pem"
        self._process: subprocess.Popen | None = None
        self._make_certificate()
        properties = {**self._everywhere(), **_SECURE, "listener.name.secure.ssl.keystore.location": self._pem}
        if joins is None:
            properties["process.roles"] = "broker,controller"
            properties["listeners"] += f",CONTROLLER://{own}"
        else:
            properties["node.id"] = 2
        self._properties = directory / "server.properties"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        cluster = base64.urlsafe_b64encode(b"flowagent broker").decode().rstrip("=")
        users = [word for user in (USER, STRANGER) for word in ("--add-scram", _scram(user))]
        tool = [*_JAVA, "-cp", classpath(), "kafka.tools.StorageTool"]
        command = [*tool, "format", "--cluster-id", cluster, "--config", str(self._properties), *users]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def _everywhere(self) -> dict[str, Any]:
        """Properties of brokers, whether they are controllers, too, or not."""
        return {
            "process.roles": "broker",
            "node.id": 1,
            "controller.quorum.voters": f"1@{self.controller}",
            "listeners": f"OPEN://{self.address},SECURE://{self.secure}",
            "listener.security.protocol.map": "OPEN:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "OPEN",
            "log.dirs": self._directory / "data",
            "num.partitions": PARTITIONS,
            "offsets.topic.replication.factor": 1,
            # A broker that was killed is missed soon, so that it may come again.
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 2000,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{USER}",
        }

    def start(self) -> Self:
        """Start it, again too; returns when it answers."""
        with (self._directory / "log").open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*_JAVA, "-cp", classpath(), "kafka.Kafka", str(self._properties)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until(self._answers, "Kafka answers", timeout=60, every=0.1)
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """It ends in order."""
        self._process.terminate()
        self._process.wait(60)

    def kill(self) -> None:
        """It ends at once."""
        self._process.kill()
        self._process.wait()

    def make_topic(self, name: str, partitions: int = PARTITIONS, replicas: int = 1, **settings: str) -> None:
        """With settings such as `max_message_bytes`."""
        configs = {key.replace("_", "."): value for key, value in settings.items()}
        topic = NewTopic(name, partitions, replicas, topic_configs=configs)

        async def make() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
            try:
                await admin.start()
                await admin.create_topics([topic])
            finally:
                await admin.close()

        asyncio.run(make())

    def messages(self, *topics: str) -> list[ConsumerRecord]:
        """All that is in them, in the order of each partition."""
        return asyncio.run(self._messages(topics))

    async def _messages(self, topics: tuple[str, ...]) -> list[ConsumerRecord]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.address, max_partition_fetch_bytes=1 << 24)
        await consumer.start()
        try:
            await consumer._client.set_topics(topics)
            places = [TopicPartition(t, p) for t in topics for p in consumer.partitions_for_topic(t) or ()]
            ends = await consumer.end_offsets(places)
            left = {place for place in places if ends[place]}
            if not left:
                return []
            consumer.assign(sorted(left))
            await consumer.seek_to_beginning()
            found = []
            async with asyncio.timeout(60):
                while left:
                    for place, records in (await consumer.getmany(timeout_ms=1000)).items():
                        found += records
                        if await consumer.position(place) >= ends[place]:
                            left.discard(place)
            return found
        finally:
            await consumer.stop()

    def _answers(self) -> bool:
        text = (self._directory / "log").read_bytes()[self._log_start :].decode()
        assert self._process.poll() is None, text[-5000:]
        return "Kafka Server started" in text

    def _make_certificate(self) -> None:
        """A CA of its own, and the broker's key and certificate."""
        key = self._directory / "broker.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "1", "-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", key, "-out", self.ca],
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip
        self._pem.write_text(key.read_text() + self.ca.read_text())


def token(user: str, seconds: int) -> str:
    """For OAUTHBEARER, good for so long: an unsecured JWS (RFC 7515, appendix A.5)."""
    now = int(time.time())  # noqa: TID251
    parts = {"alg": "none"}, {"sub": user, "iat": now + min(seconds, 0) - 1, "exp": now + seconds}
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts), ""])


def _scram(user: str) -> str:
    return f"SCRAM-SHA-512=[name={user},password={PASSWORD}]"
