"""What options records teach, and the sampling rate of flow records that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, constant
from flowagent.grouping import group_rows
from flowagent.ingest.exporters import Domain, Exporters
from flowagent.ingest.fields import Head, Values
from flowagent.ingest.rates import DOMAIN, RATE_ELEMENTS, SELECTOR_ELEMENTS, rate_of, scope_of
from flowagent.ingest.records import Records
from flowagent.ingest.state import State
from flowagent.ingest.templates import Template
from flowagent.schema import SAMPLING_SOURCES

_UNKNOWN, _WIRE, _PRESCALED, _CONFIG = (
    SAMPLING_SOURCES.index(name) for name in ("unknown", "wire", "prescaled", "config")
)
RateFor = Callable[[Mapping[str, float]], float | None]
_SYSTEM_INIT = "systemInitTimeMilliseconds"
_NOT_SENT = "notSentPacketTotalCount"
_USEFUL = frozenset(
    (*RATE_ELEMENTS, *SELECTOR_ELEMENTS, _SYSTEM_INIT, _NOT_SENT, "observationDomainId",
     "ingressInterface", "in_if", "scopeInterface")
)  # fmt: skip


def learn(exporters: Exporters, domain: Domain, records: Records, head: Head) -> bool:
    """Take sampling rates and the boot time from options records; whether anything changed that is worth saving."""
    if not records.layout.names & {*RATE_ELEMENTS, _SYSTEM_INIT, _NOT_SENT}:
        return False
    columns = records.layout.columns(records.bytes, head, _USEFUL)
    numbers = {name: values.data.tolist() for name, values in columns.items() if values.data.ndim == 1}
    changed = False
    for row in range(records.total):
        fields = {name: column[row] for name, column in numbers.items()}
        target = (
            exporters.peer(domain, int(fields["observationDomainId"])) if fields.get("observationDomainId") else domain
        )
        boot, not_sent, rate = fields.get(_SYSTEM_INIT), fields.get(_NOT_SENT), rate_of(fields)
        if boot and boot != target.system_init_ns:
            target.system_init_ns = int(boot)
            changed = True
        if not_sent is not None:
            target.not_sent_packets = int(not_sent)
        if rate is not None:
            changed |= exporters.set_rate(target, scope_of(fields), rate)
    return changed


class Sampling(NamedTuple):
    """A rate (None where unknown) and an index into SAMPLING_SOURCES."""

    rate: float | None
    source: int


def domain_sampling(exporters: Exporters, domain: Domain, template: Template) -> Sampling | None:
    """The sampling of all records of a template; None where records may differ."""
    if template.is_ovs:
        return Sampling(None, _PRESCALED)  # even where the user set a rate: the counts are multiplied already
    override = exporters.override(domain)
    if override is not None:
        return Sampling(override, _CONFIG)
    rates = exporters.rates(domain)
    if template.says_sampling or not rates.keys() <= {DOMAIN}:
        return None
    default = rates.get(DOMAIN)
    return Sampling(default, _WIRE if default is not None else _UNKNOWN)


def row_sampling(state: State, domain: Domain, records: Records, head: Head) -> dict[str, Values]:
    """The columns sampling_rate and sampling_source where records may differ."""
    names = records.layout.names
    own = tuple(name for name in RATE_ELEMENTS if name in names)
    if own:
        return _by_row(state, records, head, own, rate_of)
    rates = state.exporters.rates(domain)
    default = rates.get(DOMAIN)
    scoped = tuple(name for name in (*SELECTOR_ELEMENTS, "in_if") if name in names)
    if not scoped:
        return constant_sampling(state, records.total, Sampling(default, _WIRE if default is not None else _UNKNOWN))

    def look_up(fields: Mapping[str, float]) -> float | None:
        selectors = [rates.get(("selector", int(fields[name]))) for name in SELECTOR_ELEMENTS if name in fields]
        interface = rates.get(("interface", int(fields["in_if"]))) if "in_if" in fields else None
        return next((rate for rate in (*selectors, interface) if rate is not None), default)

    return _by_row(state, records, head, scoped, look_up)


def constant_sampling(state: State, n: int, sampling: Sampling) -> dict[str, Values]:
    """The two columns where one rate holds for all rows."""
    state.stats.sampling[SAMPLING_SOURCES[sampling.source]] += n
    columns = {"sampling_source": Values(constant(sampling.source, n, np.uint8))}
    if sampling.rate is not None:
        columns["sampling_rate"] = Values(constant(sampling.rate, n, np.float64))
    return columns


def mixed_sampling(state: State, samplings: list[Sampling], which: Array) -> dict[str, Values]:
    """The two columns where each row has one of several; `which` (n,) says the one."""
    if len(set(samplings)) == 1:
        return constant_sampling(state, len(which), samplings[0])
    sources = np.array([sampling.source for sampling in samplings], np.uint8)[which]
    rates = np.array([sampling.rate or 0 for sampling in samplings], np.float64)[which]
    for source, count in enumerate(np.bincount(sources, minlength=len(SAMPLING_SOURCES)).tolist()):
        state.stats.sampling[SAMPLING_SOURCES[source]] += count
    columns = {"sampling_source": Values(sources)}
    if bool(rates.any()):
        columns["sampling_rate"] = Values(rates, rates > 0)
    return columns


def _by_row(state: State, records: Records, head: Head, names: tuple[str, ...], rate_for: RateFor) -> dict[str, Values]:
    """Look the rate up once for each distinct combination of these fields."""
    columns = records.layout.columns(records.bytes, head, frozenset(names))
    arrays = [columns[name].data for name in names]
    whole: list[Array] = [a.view(np.int64) if a.dtype == np.float64 else a for a in arrays]
    groups = group_rows(whole)
    rate = np.zeros(records.total, np.float64)
    for part in np.split(groups.order, groups.starts[1:]):
        fields = {name: array[part[0]].item() for name, array in zip(names, arrays, strict=True)}
        rate[part] = rate_for(fields) or 0
    known = rate > 0
    unknown = int((~known).sum())
    state.stats.sampling["wire"] += records.total - unknown
    state.stats.sampling["unknown"] += unknown
    source = np.where(known, _WIRE, _UNKNOWN).astype(np.uint8)
    return {"sampling_rate": Values(rate, known if unknown else None), "sampling_source": Values(source)}
