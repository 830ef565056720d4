"""Sink `ipfix`: rows as IPFIX to another collector, so that the agent can sit in front of any there is (RFC 7011)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, Self

import msgspec
import numpy as np

from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.delivery import Delivery
from flowagent.errors import ConfigError, Retry
from flowagent.export.ipfix_link import Link, Tcp, Udp
from flowagent.export.ipfix_message import (
    Message,
    Rates,
    data_messages,
    option_messages,
    options_template_message,
    template_messages,
)
from flowagent.export.ipfix_template import Templates
from flowagent.export.origins import WEIGHT, weighted
from flowagent.metrics import Family
from flowagent.schema import COLUMNS
from flowagent.sections import parse_duration, parse_listen
from flowagent.tls import ClientTls

_SUMS = tuple(name for name, column in COLUMNS.items() if column.merge == "sum")


class Config(Delivery, frozen=True, kw_only=True):
    """Send rows as IPFIX to another collector."""

    collector: str
    """Where to: `host:port` or `[v6]:port`; 4739 is the usual port, 4740 with TLS."""
    protocol: Literal["udp", "tcp"] = "udp"
    """UDP loses what does not fit into a buffer on the way, and nobody notices; TCP does not."""
    tls: ClientTls | None = None
    """`{ca: FILE, cert: FILE, key: FILE, server_name: NAME, verify: true}` for TLS over TCP."""
    observation_domain: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)] = 1
    """Domain of all that is sent; that of the original export is in each record (originalObservationDomainId)."""
    template_refresh: str | float = "60s"
    """How often templates and sampling rates are sent again over UDP."""
    mtu: Annotated[int, msgspec.Meta(ge=512, le=65_507)] = 1400
    """Bytes of a UDP datagram at most."""
    pace: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    """Datagrams a second at most, so that no buffer on the way overflows."""
    scale: bool = False
    """Multiply bytes and packets by the sampling rate, instead of telling the rate: for collectors that ignore it."""

    def build(self, ctx: Context) -> IpfixSink:
        host, port = parse_listen(self.collector, f"{ctx.name}.collector")
        if not port or self.collector.startswith(":"):
            raise ConfigError(
                f"{ctx.name}.collector",
                f"{self.collector!r} is no place to send to; write host:port, such as nfdump:4739",
            )
        if self.protocol == "udp" and self.tls is not None:
            raise ConfigError(f"{ctx.name}.tls", "goes with TCP only; write protocol: tcp")
        if self.protocol == "udp":
            return IpfixSink(self, ctx, Udp(host, port, self.mtu, self.pace))
        if self.tls is None:
            return IpfixSink(self, ctx, Tcp(host, port, None, None))
        context = self.tls.context(f"{ctx.name}.tls")
        return IpfixSink(self, ctx, Tcp(host, port, context, self.tls.server_name or host))


class IpfixSink:
    """Sends templates before what needs them, then the rows."""

    def __init__(self, config: Config, ctx: Context, link: Link) -> None:
        self._ctx = ctx
        self._link = link
        self._collector = config.collector
        self._domain = config.observation_domain
        self._scale = config.scale
        self._refresh = parse_duration(config.template_refresh, f"{ctx.name}.template_refresh")
        self._templates = Templates(link.limit)
        self._rates = Rates()
        self._told_templates = self._told_rates = 0
        """How many of them the collector knows."""
        self._told_at = 0.0

    async def __aenter__(self) -> Self:
        self._ctx.metrics.add(self._families)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ctx.metrics.remove(self._families)
        await self._link.close()

    def columns(self) -> frozenset[str] | None:
        return None

    async def write(self, batch: Batch) -> int:
        try:
            if await self._link.open():
                self._told_templates = self._told_rates = 0
            return await self._link.send(self.messages(batch), self._ctx.clock.now_ns() // SECOND)
        except OSError as error:
            await self._link.close()
            raise Retry(f"cannot send to {self._collector}: {error.strerror or error}") from error

    def messages(self, batch: Batch) -> Iterator[Message]:
        """All that is to be sent now: what the collector must know first, then the records."""
        domain, limit = self._domain, self._link.limit
        groups = self._templates.groups(self._prepared(batch))
        parts = [(template.number, template.records(rows)) for template, rows in groups]
        now = self._ctx.clock.monotonic()
        if self._link.forgets and now - self._told_at >= self._refresh:
            self._told_templates = self._told_rates = 0
        if not self._told_templates:
            self._told_at = now
        templates = [template.record() for template in self._templates]
        yield from template_messages(templates[self._told_templates :], domain, limit)
        rates = self._rates.records()
        if rates and not self._told_rates:
            yield options_template_message(domain)
        yield from option_messages(rates[self._told_rates :], domain, limit)
        self._told_templates, self._told_rates = len(templates), len(rates)
        for number, records in parts:
            yield from data_messages(number, records, domain, limit)

    def _prepared(self, batch: Batch) -> Batch:
        """Sums as they are sent, and selectors of sampling rates."""
        rows = _scaled(batch) if self._scale else batch
        sums = {name: value for name in _SUMS if (value := weighted(name).read(rows)) is not None}
        valid = {name: value.known for name, value in sums.items() if value.known is not None}
        rows = rows.with_columns({name: value.data for name, value in sums.items()}, valid)
        return rows if self._scale else self._rates.with_selectors(rows)

    def _families(self) -> Iterable[Family]:
        text = "Rows sent with the core columns only, as there were too many templates."
        samples = {(self._ctx.name,): self._templates.narrowed}
        yield Family("flowagent_sink_narrowed_rows", "counter", text, ("sink",), samples)


def _scaled(batch: Batch) -> Batch:
    """The sampling rate as a part of the weight."""
    if "sampling_rate" not in batch:
        return batch
    rate = np.where(batch.is_known("sampling_rate"), batch["sampling_rate"], 1.0)
    weight = WEIGHT.read(batch)
    if weight is not None:
        rate *= weight.data if weight.known is None else np.where(weight.known, weight.data, 1.0)
    return batch.with_columns({"weight": rate})
