"""Source `packets`: counts the packets of interfaces into flows, as a probe such as softflowd does.

The kernel filters, samples and cuts packets before it hands them over, many at
a time (`packetring`); their headers become columns (`headers`) and these flow
records (`flowcache`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from typing import Annotated, Self

import msgspec

from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.component import Context, Deliver
from flowagent.errors import ConfigError
from flowagent.ingest.meter import Meter, Metering
from flowagent.ingest.packetring import ANY, BLOCK, Ring
from flowagent.metrics import Family

_BLOCKS = 16
"""Blocks taken at once."""
_TICK = 1.0
"""Seconds between looking for flows that are over, and for interfaces that went."""
_PACE = 0.2
"""Seconds for packets to gather while little of the ring is used; a tenth of it otherwise."""
_LITTLE = 0.1
_LATE_NS = 300_000_000
"""How much later than captured a packet may be read, about."""
_ANYWHERE = ("192.0.2.1", "2001:db8::1")
"""Documentation addresses, to which the default route leads."""
_NO_RIGHT = (
    "may not capture packets; run as root, or give the service AmbientCapabilities=CAP_NET_RAW and "
    "RestrictAddressFamilies=AF_PACKET (systemd), or runAsUser: 0 and capabilities: {add: [NET_RAW]} (Kubernetes): "
    "see docs/deploy.md"
)


class Config(Metering, frozen=True, kw_only=True):
    """Count the packets of interfaces into flows."""

    interface: str | tuple[str, ...]
    """Interfaces to listen on; any for all there are, where packets that pass several count several times."""
    filter: str = ""
    """Packets to look at, as for tcpdump: not port 22. Needs libpcap; with any, for interfaces like Ethernet only."""
    sampling_rate: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 1
    """Look at one packet in so many, which the kernel draws at random."""
    snaplen: Annotated[int, msgspec.Meta(ge=64, le=65535)] = 160
    """Bytes of a packet that the kernel hands over; headers are all that is looked at."""
    promiscuous: bool = False
    """Receive packets for other hosts, too, as at a mirror port."""
    ring: Annotated[int, msgspec.Meta(ge=2 * BLOCK, le=2**30)] = 32 << 20
    """Bytes of kernel memory for packets that wait, for each interface."""

    def build(self, ctx: Context) -> PacketSource:
        interfaces = (self.interface,) if isinstance(self.interface, str) else self.interface
        if not interfaces or not all(interfaces):
            raise ConfigError(f"{ctx.name}.interface", "is empty; name an interface such as eth0, or any")
        if len(set(interfaces)) < len(interfaces) or (ANY in interfaces and len(interfaces) > 1):
            raise ConfigError(f"{ctx.name}.interface", "names one twice; each packet would count twice")
        exporter = self.exporter_words(ctx.name)
        meter = Meter(
            self.limits(ctx.name), tunnels=self.tunnels, exporter=exporter or (0, 0), sampling_rate=self.sampling_rate
        )
        return PacketSource(self, ctx, interfaces, meter)


class PacketSource:
    """One ring for each interface, one flow cache for all."""

    def __init__(self, config: Config, ctx: Context, interfaces: tuple[str, ...], meter: Meter) -> None:
        self._config = config
        self._ctx = ctx
        self._rings = [
            Ring(name, size=config.ring, snaplen=config.snaplen, promiscuous=config.promiscuous) for name in interfaces
        ]
        self._open: list[Ring] = []
        self._gone: set[str] = set()
        self._records = 0
        self.meter = meter

    async def __aenter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for ring in self._rings:
                self._begin(ring)
                stack.callback(ring.close)
                self._open.append(ring)
            stack.pop_all()
        if self._config.exporter is None:
            self.meter.exporter = address_words(node_address(self._rings[0].interface))
        self._ctx.metrics.add(self._families)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ctx.metrics.remove(self._families)
        for ring in self._open:
            ring.close()
        self._open = []

    def want(self, columns: frozenset[str] | None) -> None:
        self.meter.want(columns)

    def ready(self) -> str | None:
        if not self._open:
            return f"{self._ctx.name}: not capturing"
        if self._gone:
            return f"{self._ctx.name}: {', '.join(sorted(self._gone))} is down"
        return None

    def backlog(self) -> float:
        return max((ring.filled() for ring in self._open), default=0.0)

    async def run(self, deliver: Deliver) -> None:
        """Until cancelled; then all flows under way become records."""
        clock = self._ctx.clock
        due = clock.monotonic() + _TICK
        try:
            while True:
                await self._wait_readable(max(0.0, due - clock.monotonic()))
                more, waiting = True, self.backlog()
                while more:
                    more = self._take(deliver)
                    await asyncio.sleep(0)  # others get their turn
                if clock.monotonic() >= due:
                    due = clock.monotonic() + _TICK
                    self._look_after_interfaces()
                    self._deliver(list(self.meter.expire(clock.now_ns() - _LATE_NS)), deliver)
                await asyncio.sleep(_PACE if waiting < _LITTLE else _PACE / 10)
        finally:
            for _ in range(1 + self._config.ring // BLOCK // _BLOCKS):  # what the kernel handed over already
                if not self._take(deliver):
                    break
            self._deliver(list(self.meter.flush()), deliver)

    async def _wait_readable(self, seconds: float) -> None:
        """Until a ring has packets, or so long."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        for ring in self._open:
            loop.add_reader(ring.socket, readable.set)
        try:
            await asyncio.wait_for(readable.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            # Until the rings are empty again nobody needs to be told.
            for ring in self._open:
                loop.remove_reader(ring.socket)

    def _take(self, deliver: Deliver) -> bool:
        """Some blocks of each ring; whether there may be more."""
        before = self.meter.seen.packets
        records: list[Batch] = []
        for ring in self._open:
            for frames, columns in ring.take(_BLOCKS):
                try:
                    records += self.meter.add(frames, columns)
                except Exception:
                    # No input may stop the loop: what a fault of ours costs is counted and shown.
                    self.meter.skipped["internal"] += len(frames)
                    self._ctx.log.exception("lost %d packets to an unexpected error", len(frames))
        self._deliver(records, deliver)
        return self.meter.seen.packets > before

    def _deliver(self, records: list[Batch], deliver: Deliver) -> None:
        batch = Batch.concat(records)
        if len(batch):
            self._records += len(batch)
            deliver(batch)

    def _begin(self, ring: Ring) -> None:
        name = self._ctx.name
        try:
            ring.open(self._config.filter, self._config.sampling_rate)
        except ValueError as error:
            raise ConfigError(f"{name}.filter", f"{self._config.filter!r} is not understood: {error}") from error
        except ImportError as error:
            problem = f"{error}; install libpcap (libpcap0.8 on Debian), or leave the filter out"
            raise ConfigError(f"{name}.filter", problem) from error
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT):
                raise ConfigError(name, _NO_RIGHT) from error
            if error.errno in (errno.ENODEV, errno.ENXIO):
                there = ", ".join(interface for _, interface in socket.if_nameindex())
                problem = f"there is no {ring.interface}; there are {there}, and any for all"
                raise ConfigError(f"{name}.interface", problem) from error
            if error.errno == errno.ENOMEM:
                raise ConfigError(f"{name}.ring", f"the kernel has no memory for {self._config.ring} bytes") from error
            raise ConfigError(name, f"cannot capture on {ring.interface}: {error.strerror}") from error

    def _look_after_interfaces(self) -> None:
        """An interface that went away may come back, with another index."""
        for ring in self._open:
            code = ring.failure()
            if ring.interface in self._gone and not code:
                with contextlib.suppress(OSError):
                    ring.bind()
                    code = ring.failure()
                    if not code:
                        self._gone.discard(ring.interface)
                        self._ctx.log.info("capturing on %s again", ring.interface)
            elif code and ring.interface not in self._gone:
                self._gone.add(ring.interface)
                self._ctx.log.warning("cannot capture on %s for now: %s", ring.interface, os.strerror(code))

    def _families(self) -> Iterable[Family]:
        source = (self._ctx.name,)
        drops = sum(ring.count_drops() for ring in self._open)
        counts = (
            ("socket_drops", drops, "Packets the kernel dropped: the ring was full."),
            ("ingest_packets", self.meter.seen.packets, "Packets counted into flows."),
            ("ingest_flow_evictions", self.meter.cache.evicted, "Flows that ended early for want of room."),
        )
        for name, count, text in counts:
            yield Family(f"flowagent_{name}", "counter", text, ("source",), {source: count})
        flows = {source: len(self.meter.cache)}
        yield Family("flowagent_ingest_flows", "gauge", "Flows under way.", ("source",), flows)
        skipped = {(*source, reason): n for reason, n in self.meter.skipped.items()}
        text = "Packets that are in no flow, by reason."
        yield Family("flowagent_ingest_skipped_packets", "counter", text, ("source", "reason"), skipped)
        labels, records = ("source", "protocol"), {(*source, "packets"): self._records}
        yield Family("flowagent_ingest_records", "counter", "Flow records decoded.", labels, records)


def node_address(interface: str) -> str:
    """The address of this host towards others, else that of an interface, else the loopback's."""
    for family, target in zip((socket.AF_INET, socket.AF_INET6), _ANYWHERE, strict=True):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((target, 9))  # sends nothing
            return str(sock.getsockname()[0])
    with contextlib.suppress(OSError, AttributeError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.connect((_ANYWHERE[0], 9))
        return str(sock.getsockname()[0])
    return "127.0.0.1"
