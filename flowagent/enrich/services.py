"""Enricher `services`: what a flow is about, by protocol and port: https, dns, etcd."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from flowagent import names
from flowagent.batch import Array, Batch
from flowagent.component import Context, Settings
from flowagent.enrich.keeping import keep_names
from flowagent.errors import ConfigError
from flowagent.metrics import Family
from flowagent.worker import Worker

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
EPHEMERAL = 32768
"""From here on are the ports that Linux gives to clients."""
SYSTEM_FILE = "/etc/services"
MAX_BYTES = 4 << 20
_LINE = re.compile(r"\s*([^\s#]+)\s+([0-9]{1,5})/([a-z]+)\b")
_KEY = re.compile(r"([a-z]+)/([0-9]{1,5})")
Names = dict[tuple[str, int], str]
"""By protocol and port."""

_COMMON = {
    "ssh": "22/tcp", "smtp": "25/tcp", "domain": "53/tcp 53/udp", "bootps": "67/udp", "http": "80/tcp",
    "ntp": "123/udp", "snmp": "161/udp", "bgp": "179/tcp", "ldap": "389/tcp", "https": "443/tcp 443/udp",
    "microsoft-ds": "445/tcp", "syslog": "514/udp", "ldaps": "636/tcp", "domain-s": "853/tcp 853/udp",
    "mysql": "3306/tcp", "postgresql": "5432/tcp", "amqp": "5672/tcp", "redis": "6379/tcp", "nfs": "2049/tcp",
    "etcd-client": "2379/tcp", "etcd-server": "2380/tcp", "kube-apiserver": "6443/tcp", "kubelet": "10250/tcp",
    "kube-scheduler": "10259/tcp", "kube-controller-manager": "10257/tcp", "kube-proxy": "10256/tcp",
    "vxlan": "4789/udp", "geneve": "6081/udp", "ovsdb": "6640/tcp", "ovn-nb": "6641/tcp", "ovn-sb": "6642/tcp",
    "openflow": "6653/tcp", "wireguard": "51820/udp", "kafka": "9092/tcp", "prometheus": "9090/tcp",
    "alertmanager": "9093/tcp", "node-exporter": "9100/tcp", "elasticsearch": "9200/tcp", "memcached": "11211/tcp",
    "mongodb": "27017/tcp", "loki": "3100/tcp", "otlp-grpc": "4317/tcp", "otlp-http": "4318/tcp",
    "netflow": "2055/udp", "ipfix": "4739/udp 4739/tcp 4739/sctp", "sflow": "6343/udp", "mdns": "5353/udp",
}  # fmt: skip
"""Where there is no file of the system, and what its file lacks."""


class Config(Settings, frozen=True):
    """Name services by protocol and port."""

    names: dict[str, str] = msgspec.field(default_factory=dict)
    """Names of your own, such as `{tcp/8443: my-api}`; an empty name takes one away."""
    file: str | None = SYSTEM_FILE
    """File of more names, in the format of /etc/services; null for none. `names` counts before it."""

    def build(self, ctx: Context) -> Services:
        return Services(self, ctx)


class Services:
    """Names from a table of all ports; it is made once."""

    needs = frozenset({"proto", "src_port", "dst_port"})
    adds = frozenset({"service"})

    def __init__(self, config: Config, ctx: Context) -> None:
        """Raises ConfigError."""
        self._file, self._setting = config.file, f"{ctx.name}.file"
        self._own = _own_names(config.names, f"{ctx.name}.names")
        self._table = _Table(_common_names() | self._own)

    async def __aenter__(self) -> Self:
        """Raises ConfigError where the file cannot be read; the system's own may be missing."""
        if self._file is not None:
            worker = Worker(self._setting)
            try:
                data = await worker.run(Path(self._file).read_bytes)
            except OSError as error:
                if self._file != SYSTEM_FILE or not isinstance(error, FileNotFoundError):
                    raise ConfigError(self._setting, f"cannot read {self._file}: {error.strerror}") from error
                data = b""
            finally:
                worker.stop()
            self._table = _Table(_common_names() | _file_names(data) | self._own)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing is open."""

    async def run(self) -> None:
        """Nothing changes; until cancelled."""
        await keep_names(lambda: [self._table.names])

    def ready(self) -> str | None:
        return None

    def enrich(self, batch: Batch, wanted: frozenset[str]) -> Batch:
        """See `Enricher`. The destination port names the service, or else the source port, as in replies.

        Where both could, the source port does if only it is below those of clients.
        """
        if "service" not in wanted or "service" in batch or "proto" not in batch:
            return batch
        row = self._table.row.take(_known(batch, "proto"))
        source, target = (self._table.places(batch, row, name) for name in ("src_port", "dst_port"))
        if source is None or target is None:
            one = source if target is None else target
            return batch if one is None else batch.with_columns({"service": self._table.names.take(one)})
        is_reply = (source != 0) & (batch["src_port"] < EPHEMERAL) & (batch["dst_port"] >= EPHEMERAL)
        place = np.where((target == 0) | is_reply, source, target)
        return batch.with_columns({"service": self._table.names.take(place)})

    def families(self) -> Iterable[Family]:
        yield Family("flowagent_services_names", "gauge", "Ports that have a name.", (), {(): len(self._table)})


class _Table:
    """Immutable: for each protocol and port the place of its name."""

    def __init__(self, named: Names) -> None:
        named = {key: name for key, name in named.items() if name}
        texts = ["", *dict.fromkeys(named.values())]
        places = {text: place for place, text in enumerate(texts)}
        self.names = names.codes(texts)
        self.row = np.zeros(256, np.uint32)
        """By protocol where its ports begin; of protocols without services nothing has a name."""
        self.row[list(PROTOCOLS.values())] = np.arange(1, len(PROTOCOLS) + 1, dtype=np.uint32) << 16
        self._places = np.zeros((len(PROTOCOLS) + 1) << 16, np.uint16)
        for (protocol, port), name in named.items():
            self._places[self.row[PROTOCOLS[protocol]] + port] = places[name]
        self._size = len(named)

    def __len__(self) -> int:
        return self._size

    def places(self, batch: Batch, row: Array, name: str) -> Array | None:
        """(n,) uint16: places of the names of ports, 0 where there is none; None without such a column."""
        if name not in batch:
            return None
        found: Array = self._places.take(row | _known(batch, name))
        return found


def _known(batch: Batch, name: str) -> Array:
    """A column with 0 where it is not known."""
    values = batch[name]
    return values if name not in batch.valid else np.where(batch.valid[name], values, values.dtype.type(0))


def _common_names() -> Names:
    return {
        (protocol, int(port)): name
        for name, places in _COMMON.items()
        for port, protocol in (place.split("/") for place in places.split())
    }


def _file_names(data: bytes) -> Names:
    """What can be read of a file like /etc/services; the first name of a port counts, as in getservbyport(3)."""
    found: Names = {}
    for line in data[:MAX_BYTES].decode("utf-8", "replace").splitlines():
        match = _LINE.match(line)
        if match and match[3] in PROTOCOLS and 0 < int(match[2]) < 65536:
            found.setdefault((match[3], int(match[2])), match[1])
    return found


def _own_names(given: Mapping[str, str], path: str) -> Names:
    """Of the settings; raises ConfigError."""
    found: Names = {}
    for key, name in given.items():
        match = _KEY.fullmatch(key)
        if match is None or match[1] not in PROTOCOLS or not 0 < int(match[2]) < 65536:
            problem = f"is no protocol and port; write one of {', '.join(PROTOCOLS)} and a port, such as tcp/8443"
            raise ConfigError(f"{path}.{key}", problem)
        found[match[1], int(match[2])] = name
    return found
