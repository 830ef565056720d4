"""A client of Kafka that takes record batches and answers them as it is told."""

import asyncio
from collections import defaultdict
from types import SimpleNamespace

from flowagent.brokers import Brokers
from flowagent.export import producer


class Message:
    """As a broker would have it."""

    def __init__(self, topic, partition, fields):
        self.topic, self.partition = topic, partition
        self.key, self.value = fields["key"], fields["value"]
        self.headers, self.timestamp = dict(fields["headers"]), fields["timestamp"]


class Cluster:
    """What all clients of a test talk to.

    `answers` are for the next record batches: None takes it, an error refuses
    it, `LATE` says nothing until `wake`. When there are none left, all is taken.
    """

    LATE = object()

    def __init__(self):
        self.partitions = defaultdict(lambda: 4)
        self.answers = []
        self.taken = []
        """Messages, in order of being taken."""
        self.start_error = None
        self.problem = None
        """What is found where somebody looks for one."""
        self.clients = []
        self.sleeping = []

    def wake(self):
        """Take what waits for an answer."""
        for client, future, messages in self.sleeping:
            if not future.done() and not client.is_stopped:
                self.taken += messages
                future.set_result(None)
        self.sleeping.clear()

    @property
    def alive(self):
        return [client for client in self.clients if not client.is_stopped]


class Batch:
    """Of records; `room` in bytes."""

    def __init__(self, room):
        self.fields, self.left, self.is_closed = [], room, False

    def append(self, **fields):
        size = len(fields["value"]) + len(fields["key"] or b"")
        if self.fields and size > self.left:
            return None
        self.left -= size
        self.fields.append(fields)
        return True

    def close(self):
        self.is_closed = True


class Client:
    """Has as much of AIOKafkaProducer as is used."""

    def __init__(self, cluster, settings):
        self.cluster, self.settings = cluster, settings
        self.is_stopped = False
        self.queued = {}
        self.client = SimpleNamespace(cluster=SimpleNamespace(brokers=list))
        self._sender = SimpleNamespace(sender_task=None)
        self._message_accumulator = SimpleNamespace(fail_all=self._fail_all, _batches={}, _pending_batches=set())
        cluster.clients.append(self)

    async def start(self):
        if self.cluster.start_error is not None:
            raise self.cluster.start_error

    async def stop(self):
        self.is_stopped = True

    async def partitions_for(self, topic):
        count = self.cluster.partitions[topic]
        if isinstance(count, Exception):
            raise count
        return set(range(count))

    def create_batch(self):
        return Batch(self.settings["max_batch_size"])

    async def send_batch(self, batch, topic, *, partition):
        assert batch.is_closed
        assert partition < self.cluster.partitions[topic]
        assert self.queued.get((topic, partition), None) is None or self.queued[topic, partition].done()
        future = self.queued[topic, partition] = asyncio.get_running_loop().create_future()
        messages = [Message(topic, partition, fields) for fields in batch.fields]
        answer = self.cluster.answers.pop(0) if self.cluster.answers else None
        if answer is Cluster.LATE:
            self.cluster.sleeping.append((self, future, messages))
        elif isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            self.cluster.taken += messages
            future.set_result(None)
        return future

    def _fail_all(self, error):
        for future in self.queued.values():
            if not future.done():
                future.set_exception(error)


def install(monkeypatch):
    """Let there be a cluster instead of Kafka's."""
    cluster = Cluster()

    async def problem(self, seconds, others=()):
        return cluster.problem

    monkeypatch.setattr(producer, "AIOKafkaProducer", lambda **settings: Client(cluster, settings))
    monkeypatch.setattr(Brokers, "problem", problem)
    return cluster
