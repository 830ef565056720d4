"""Golden captures: what real exporters sent, decoded, is what three other decoders found in it."""

import numpy as np
import pytest
from build import plain, rows
from captured import NAMES, datagrams, decoded, is_sflow, payloads, truth

from flowagent.batch import Batch
from flowagent.ingest.decoder import Decoder
from flowagent.schema import EXPORT_PROTOCOLS, SAMPLING_SOURCES

SFLOW = EXPORT_PROTOCOLS.index("sflow5")
WITHOUT_SFLOW = [n for n in NAMES if set(truth(n)["protocols"]) - {"sflow5"}]
WITH_SFLOW = [n for n in NAMES if any(map(is_sflow, payloads(n)))]

# Names in the truth files, where they differ from the columns'.
COLUMN = {
    "post_vlan": "dst_vlan", "end_reason": "flow_end_reason", "obs_point": "observation_point",
    "ethertype": "ether_type", "post_nat_src_addr": "nat_src_addr", "post_nat_dst_addr": "nat_dst_addr",
    "post_nat_src_port": "nat_src_port", "post_nat_dst_port": "nat_dst_port", "tunnel_src": "tunnel_src_addr",
    "tunnel_dst": "tunnel_dst_addr", "dot1q_vlan": "vlan", "if_name": "interfaceName", "in_if_name": "interfaceName",
    "out_if_name": "interfaceName_2", "bytes_total": "octetTotalCount", "packets_total": "packetTotalCount",
    "l2_bytes": "layer2OctetDeltaCount", "dscp": "ipDiffServCodePoint", "ip_version": "ipVersion",
    "flow_label": "flowLabelIPv6", "firewall_event": "firewallEvent", "virtual_obs_id": "pen6876_898",
}  # fmt: skip
SAME = (
    "observation_domain", "src_addr", "dst_addr", "src_port", "dst_port", "proto", "bytes", "packets", "tcp_flags",
    "tos", "in_if", "out_if", "src_as", "dst_as", "src_mask", "dst_mask", "next_hop", "ttl", "icmp_type", "icmp_code",
    "vlan", "direction", "src_mac", "dst_mac", "nat_event", "tunnel_type", "tunnel_key",
)  # fmt: skip


@pytest.fixture(scope="module", params=WITHOUT_SFLOW)
def capture(request):
    """Truth, decoder, and the rows, without those of sFlow, which have a truth of their own."""
    decoder, batch = decoded(request.param)
    return truth(request.param), decoder, flows(batch)


def flows(batch):
    return batch.take(batch["export_protocol"] != SFLOW) if len(batch) else batch


def counted(known, decoder, batch):
    """The rows that the truth's decoder makes too.

    It knows nothing of reverse flows as rows of their own, of sets that wait
    for their template, and of templates that other domains lend.
    """
    keep = np.ones(len(batch), np.bool_)
    if "reverse_bytes" in known["sums"]:
        keep &= batch.is_known("ipVersion")
    if known["records"].get("records_before_their_template"):
        first = {s["observation_domain"]: s["first_template_sequence"] for s in template_sequences(known)}
        for domain, sequence in first.items():
            keep &= ~((batch["observation_domain"] == domain) & (batch["sequence"] < sequence))
    if known["records"].get("decodable_only_with_another_domains_template"):
        own = [d.key.domain for d in decoder.exporters if d.templates]
        keep &= np.isin(batch["observation_domain"], own)
    return batch.take(keep)


def template_sequences(known):
    """By domain, the sequence number of the first v9 datagram that brings a template for data."""
    found = {}
    for payload in payloads(known["file"].removesuffix(".pcap")):
        at, domain = 20, int.from_bytes(payload[16:20])
        while at + 4 <= len(payload) and domain not in found:
            if int.from_bytes(payload[at : at + 2]) == 0:
                found[domain] = int.from_bytes(payload[12:16])
            at += int.from_bytes(payload[at + 2 : at + 4]) or 4
    return [{"observation_domain": d, "first_template_sequence": s} for d, s in found.items()]


def reverse_records(known, batch):
    return int((~batch.is_known("ipVersion")).sum()) if "reverse_bytes" in known["sums"] else 0


def lent(known):
    return known["records"].get("decodable_only_with_another_domains_template", {}).get("records", 0)


def test_records(capture):
    known, decoder, batch = capture
    records = known["records"]
    expected = records["flow"] + records.get("records_before_their_template", 0) + lent(known)
    assert len(batch) == expected + reverse_records(known, batch)
    assert len(counted(*capture)) == records["flow"]
    assert decoder.stats.records.total() - decoder.stats.records["sflow5"] == len(batch)
    assert decoder.stats.options_records == records["options"]


def test_datagrams_and_templates(capture):
    known, decoder, _ = capture
    expected = {p: n for p, n in known["datagrams"]["by_protocol"].items() if n}
    assert +decoder.stats.datagrams == expected
    templates = known["templates"]
    if templates:
        assert (decoder.stats.templates, decoder.stats.options_templates) == (
            templates["records"],
            templates["options"],
        )


def test_sums(capture):
    known, _, batch = capture
    mine = counted(*capture)
    sums = {"bytes": 0, "packets": 0, **known["sums"]}
    assert (mine.total("bytes"), mine.total("packets")) == (sums["bytes"], sums["packets"])
    if "bytes_total" in sums:
        assert mine.total("octetTotalCount") == sums["bytes_total"]
    if "reverse_bytes" in known["sums"]:
        assert batch.total("bytes") == known["sums"]["bytes"] + known["sums"]["reverse_bytes"]
        assert batch.total("packets") == known["sums"]["packets"] + known["sums"]["reverse_packets"]
    if "l2_bytes" in known["sums"]:
        assert mine.total("layer2OctetDeltaCount") == known["sums"]["l2_bytes"]


def test_lent_templates(capture):
    known, decoder, batch = capture
    expected = known["records"].get("decodable_only_with_another_domains_template")
    if expected:
        own = [d.key.domain for d in decoder.exporters if d.templates]
        rest = batch.take(~np.isin(batch["observation_domain"], own))
        assert {k: rest.total(k) for k in ("records", "bytes", "packets")} == expected


def test_five_tuples(capture):
    known, *_ = capture
    mine = counted(*capture)
    tuples = {
        tuple(row.get(name, 0) for name in ("src_addr", "dst_addr", "src_port", "dst_port", "proto"))
        for row in rows(mine.select(["src_addr", "dst_addr", "src_port", "dst_port", "proto"]))
        if "src_addr" in row
    }
    assert len(tuples) == known["distinct_5tuples"]
    assert int((~mine.is_known("src_addr")).sum()) == known["records_without_ip"]


def test_by_protocol(capture):
    known, *_ = capture
    mine = counted(*capture)
    found = {}
    if "proto" in mine:
        for proto in np.unique(mine["proto"][mine.is_known("proto")]).tolist():
            part = mine.take((mine["proto"] == proto) & mine.is_known("proto"))
            found[str(proto)] = {"records": len(part), "bytes": part.total("bytes"), "packets": part.total("packets")}
    assert found == known["by_proto"]


@pytest.mark.parametrize("name", ["start", "end"])
def test_times(capture, name):
    known, *_ = capture
    mine = counted(*capture)
    if known["time"][f"min_{name}_ms"] is None:
        assert not mine.is_known(f"{name}_ns").any()
        return
    ms = mine[f"{name}_ns"][mine.is_known(f"{name}_ns")] // 10**6
    assert (int(ms.min()), int(ms.max())) == (known["time"][f"min_{name}_ms"], known["time"][f"max_{name}_ms"])


def test_first_records_field_by_field(capture):
    known, *_ = capture
    found = rows(counted(*capture).rows(0, len(known["first_records"])))
    for expected, row in zip(known["first_records"], found, strict=True):
        assert {k: v for k, v in as_columns(expected).items() if row.get(k) != v} == {}


def as_columns(expected):
    """A truth record in columns."""
    out = {}
    for name, value in expected.items():
        column = name if name in SAME else COLUMN.get(name)
        if column is not None:
            out.setdefault(column, as_value(column, value))
    for name in ("start", "end"):
        if f"{name}_us" in expected and f"{name}_ms" in expected:
            out[f"{name}_ns"] = pytest.approx(expected[f"{name}_us"] * 1000, abs=1000)
    code = expected.get("icmp_type_code")
    if code is not None and expected.get("proto") in (1, 58):
        out |= {"icmp_type": code >> 8, "icmp_code": code & 0xFF}
    if expected.get("proto") not in (1, 58):
        out.pop("icmp_type", None)
        out.pop("icmp_code", None)
    if "mpls_label_1" in expected:
        out["mpls_label"] = expected["mpls_label_1"] >> 4
    return out


def as_value(column, value):
    if column in ("src_mac", "dst_mac"):
        return int(value.replace(":", ""), 16)
    if isinstance(value, str) and not column.endswith(("addr", "hop")):
        return value.encode() or None
    return value


def test_sets_that_waited(capture):
    known, decoder, _ = capture
    stats, sets = decoder.stats, known["records"]["data_sets_without_known_template"]
    waited = sets - lent(known)
    assert stats.held == waited
    assert stats.replayed + len(decoder.held) + stats.expired == waited
    if known["records"].get("records_before_their_template"):
        assert stats.replayed > 0
    decoder.close()
    assert stats.replayed + stats.expired == waited


def test_errors(capture):
    known, decoder, _ = capture
    assert bool(known["decode_errors"]) == bool(without_sflow(decoder.stats.errors))


def without_sflow(errors):
    return {k: n for k, n in errors.items() if n and k[0] != "sflow5"}


@pytest.fixture(scope="module", params=WITH_SFLOW)
def sampled(request):
    """Truth, decoder, and the rows of sFlow."""
    decoder, batch = decoded(request.param)
    rows = batch.take(batch["export_protocol"] == SFLOW) if len(batch) else batch
    return truth(request.param), decoder, rows


def test_sflow_samples(sampled):
    known, decoder, batch = sampled
    sums = known.get("sflow_sums", {"frame_length": 0, "ip_length": 0, "samples_without_ip": 0, "by_proto": {}})
    samples = known["records"]["sflow_flow_samples"]
    assert len(batch) == decoder.stats.records["sflow5"] == batch.total("packets") == batch.total("records") == samples
    # The exporters count the 4 bytes of the frame check sequence, and say that they stripped it.
    assert batch.total("bytes") == sums["frame_length"] - 4 * samples
    assert batch.total("ipTotalLength") == sums["ip_length"]
    assert int((~batch.is_known("src_addr")).sum()) == sums["samples_without_ip"]
    found = {}
    for proto in sums["by_proto"]:
        part = batch.take((batch["proto"] == int(proto)) & batch.is_known("proto"))
        found[proto] = {"samples": len(part), "frame_length": part.total("bytes") + 4 * len(part)}
    assert found == sums["by_proto"]


def test_sflow_sampling(sampled):
    known, _, batch = sampled
    if len(batch):
        assert sorted(set(batch["sampling_rate"])) == known["sampling"]["sflow_sampling_rate"]
        assert set(batch["sampling_source"]) == {SAMPLING_SOURCES.index("wire")}
        assert (
            int((batch["bytes"] * batch["sampling_rate"]).sum()) + 4 * known["sflow_sums"]["estimated_packets"]
            == known["sflow_sums"]["estimated_bytes"]
        )


def test_sflow_five_tuples(sampled):
    known, _, batch = sampled
    names = ["src_addr", "dst_addr", "src_port", "dst_port", "proto"]
    found = {tuple(row.get(n, 0) for n in names) for row in rows(batch.select(names)) if "src_addr" in row}
    assert len(found) == known.get("sflow_sums", {"distinct_5tuples": 0})["distinct_5tuples"]


def test_sflow_counter_samples(sampled):
    known, decoder, _ = sampled
    if "samples" in known:
        assert decoder.interfaces.reports == known["samples"]["counter_record_formats"].get("0:1", 0)


def test_sflow_datagrams_and_errors(sampled):
    known, decoder, _ = sampled
    assert decoder.stats.datagrams["sflow5"] == sum(map(is_sflow, payloads(name_of(known)))) > 0
    errors = {reason for (protocol, reason), n in decoder.stats.errors.items() if n and protocol == "sflow5"}
    assert errors == ({"truncated"} if known.get("case") == "tcpdump-sflow-malformed" else set())


def name_of(known):
    return f"public/{known['case']}" if "case" in known else known["file"].removesuffix(".pcap")


def test_sflow_agents(sampled):
    known, decoder, _ = sampled
    streams = [s for s in known["streams"] if s["protocol"] == "sflow5"]
    found = {
        (d.address, d.key.domain, port): session.datagrams
        for d in decoder.exporters
        if decoder.exporters.protocol(d) == "sflow5"
        for port, session in d.sessions.items()
    }
    assert found == {(s["agent"], s["sub_agent"], s["src_port"]): s["datagrams"] for s in streams}
    if not any(s["sequence_counts"] is None for s in streams) and streams:
        assert sum(decoder.exporters.lost_records(final=True).values()) == 0


def test_first_sflow_samples_field_by_field(sampled):
    known, _, batch = sampled
    first = known.get("first_flow_samples", [])
    for expected, row in zip(first, rows(batch.rows(0, len(first))), strict=True):
        assert {k: (v, row.get(k)) for k, v in as_sample(expected).items() if row.get(k) != v} == {}


def test_sflow_tunnels():
    _, batch = decoded("ovs-sflow")
    expected = truth("ovs-sflow")["first_tunnel_sample"]
    row = rows(batch.take(batch.is_known("tunnel_key")).rows(0, 1))[0]
    wanted = as_sample(expected) | {
        "tunnel_src_addr": expected["tunnel_ingress_src"], "tunnel_dst_addr": expected["tunnel_ingress_dst"],
        "tunnel_key": expected["vni_ingress"], "tunnel_type": 1,
    }  # fmt: skip
    assert {k: (v, row.get(k)) for k, v in wanted.items() if row.get(k) != v} == {}
    assert int(batch.is_known("tunnel_key").sum()) == 9


@pytest.mark.parametrize("name", ["ovs-sflow", "ovn-sflow", "ovs-mixed"])
def test_delivered_packets_of_open_vswitch_are_no_loss(name):
    """It says of all that it looks at again that they were discarded."""
    _, batch = decoded(name)
    batch = batch.take(batch["export_protocol"] == SFLOW)
    for column in ("dropped_packets", "dropped_bytes", "forwardingStatus"):
        assert not batch.is_known(column).any()
    assert not batch.is_known("out_if").all()


def as_sample(expected):
    """A truth sample in columns; None where a column must not be known."""
    out = {k: v for k, v in as_columns(expected).items() if k not in ("sequence", "in_if", "out_if", "vlan")}
    for side in ("in", "out"):
        value = expected[f"{side}_if"]
        out[f"{side}_if"] = value if expected[f"{side}_if_format"] == 0 and value not in (0, 0x3FFFFFFF) else None
    return out | {
        "exporter": expected["agent"],
        "bytes": expected["frame_length"] - expected["stripped"],
        "packets": 1,
        "sampling_rate": expected["sampling_rate"],
        "ipTotalLength": expected.get("ip_length"),
        "vlan": expected.get("in_vlan") or expected.get("vlan"),
        "dst_vlan": expected.get("out_vlan") or None,
        "flowLabelIPv6": expected.get("flow_label"),
    }


# Loss

LOST = {"derived-nf5-loss": "dropped", "derived-v9-loss": "dropped"}
GAPS = ("derived-", "ovs-ipfix-midstream", "public/")


@pytest.mark.parametrize("name", [n for n in WITHOUT_SFLOW if not n.startswith(GAPS)])
def test_clean_captures_lose_nothing(name):
    decoder, _ = decoded(name)
    assert set(decoder.exporters.lost_records(final=True).values()) == {0}


def test_dropped_v5_datagrams_are_lost_records():
    decoder, batch = decoded("derived-nf5-loss")
    _, whole = decoded("ovs-nf5")
    assert decoder.exporters.lost_records(final=True) == {"127.0.0.1": len(whole) - len(batch)}


def test_dropped_v9_datagrams_are_lost_at_their_mean():
    decoder, _ = decoded("derived-v9-loss")
    (session,) = [s for s in decoder.exporters.sessions() if s.datagrams]
    mean = session.records / session.datagrams
    # Three were dropped; one came twice and two in the wrong order.
    assert decoder.exporters.lost_records(final=True) == {"127.0.0.1": round(3 * mean)}


def test_extra_columns_have_the_names_of_the_registry():
    _, batch = decoded("ovs-ipfix-s1")
    assert {"octetTotalCount", "interfaceName", "interfaceName_2", "ipVersion", "ethernetHeaderLength"} <= set(
        batch.columns
    )
    assert set(plain(batch.take(batch.is_known("interfaceName")), "interfaceName")) >= {b"p1", b"p2", b"vx0"}


def test_a_port_of_many_protocols_gives_each_its_own():
    """All of one capture's datagrams in one feed, and every protocol alone, give the same rows."""
    parts = datagrams("ovs-mixed")
    whole = Decoder(ordered=True)
    mixed = Batch.concat([whole.feed(part) for part in parts])
    alone = 0
    for version in (b"\0\5", b"\0\12", b"\0\0"):
        decoder = Decoder()
        for part in parts:
            keep = [i for i in range(len(part)) if part.payload(i)[:2] == version]
            alone += sum(len(decoder.feed(part.part(i, i + 1))) for i in keep)
    assert alone == len(mixed) > 0
