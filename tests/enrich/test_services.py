"""Services by protocol and port."""

import socket
from pathlib import Path

import numpy as np
import pytest
from enriching import example, flows, running, said, samples

from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.enrich import services
from flowagent.enrich.services import Config
from flowagent.errors import ConfigError

ALL = frozenset({"service"})
TCP, UDP, ICMP, SCTP = 6, 17, 1, 132


def build(**settings):
    return Config(**settings).build(Context("services"))


def conversation(proto, src_port, dst_port, **more):
    return flows(
        proto=np.array(proto, np.uint8), src_port=np.array(src_port, np.uint16), dst_port=np.array(dst_port, np.uint16),
        **more,
    )  # fmt: skip


def named(enricher, *rows):
    """Services of flows as (protocol, source port, destination port)."""
    return said(enricher.enrich(conversation(*zip(*rows, strict=True)), ALL), "service")


def test_requests_and_replies_are_of_the_same_service():
    rows = [(TCP, 40000, 443), (TCP, 443, 40000), (UDP, 40000, 443), (UDP, 53, 53), (TCP, 40000, 40001)]
    assert named(build(file=None), *rows) == ["https", "https", "https", "domain", ""]


def test_a_client_that_was_given_a_named_port_changes_nothing():
    enricher = build(file=None)
    # 51820 is WireGuard's, and one of those that Linux gives to clients.
    assert named(enricher, (UDP, 53, 51820), (UDP, 51820, 53), (UDP, 40000, 51820), (UDP, 51820, 51820)) == [
        "domain", "domain", "wireguard", "wireguard",
    ]  # fmt: skip
    clients = build(file=None, names={"udp/40001": "one", "udp/40002": "two"})
    assert named(clients, (UDP, 40001, 40002), (UDP, 40002, 40001)) == ["two", "one"]
    assert named(enricher, (TCP, 9092, 5432), (TCP, 5432, 9092)) == ["postgresql", "kafka"]


def test_only_protocols_with_ports_have_services():
    assert named(build(file=None), (ICMP, 443, 443), (0, 443, 443), (SCTP, 9, 4739), (255, 53, 53)) == [
        "", "", "ipfix", "",
    ]  # fmt: skip


def test_a_port_that_is_not_known_names_nothing():
    batch = conversation([TCP, TCP], [443, 443], [80, 80])
    batch = Batch(batch.columns, valid={name: np.array([False, True]) for name in ("src_port", "dst_port")})
    assert said(build(file=None).enrich(batch, ALL), "service") == ["", "http"]
    batch = Batch(batch.columns, valid={"proto": np.array([False, True])})
    assert said(build(file=None).enrich(batch, ALL), "service") == ["", "http"]


def test_one_port_is_enough():
    batch = flows(proto=np.array([TCP], np.uint8), dst_port=np.array([22], np.uint16))
    assert said(build(file=None).enrich(batch, ALL), "service") == ["ssh"]
    batch = flows(proto=np.array([TCP], np.uint8), src_port=np.array([22], np.uint16))
    assert said(build(file=None).enrich(batch, ALL), "service") == ["ssh"]


def test_nothing_is_added_that_is_not_wanted_or_there_already():
    enricher = build(file=None)
    batch = conversation([TCP], [1], [22])
    assert enricher.enrich(batch, frozenset({"bytes"})) is batch
    there = batch.with_columns({"service": np.array([7], np.uint64)})
    assert enricher.enrich(there, ALL) is there
    ports = batch.select(["src_port", "dst_port"])
    assert enricher.enrich(ports, ALL) is ports
    proto = batch.select(["proto"])
    assert enricher.enrich(proto, ALL) is proto


async def test_a_file_counts_before_what_is_built_in_and_settings_before_it(tmp_path):
    file = tmp_path / "services"
    file.write_text(
        "# some\nweb 80/tcp www # the web\nlater 80/tcp\ncoap 5683/udp\nold 7/ddp\nbad 99999/tcp\n mine\t9/sctp"
    )
    config = Config(file=str(file), names={"tcp/8443": "my-api", "udp/5683": "things", "tcp/22": ""})
    async with running(config) as enricher:
        rows = [(TCP, 1, 80), (UDP, 1, 5683), (TCP, 1, 8443), (TCP, 1, 22), (TCP, 1, 443), (SCTP, 1, 9)]
        assert named(enricher, *rows) == ["web", "things", "my-api", "", "https", "mine"]


@pytest.mark.skipif(not Path(services.SYSTEM_FILE).exists(), reason="this system has no list of services")
async def test_the_file_of_the_system_says_what_the_system_says():
    async with running(Config()) as enricher:
        ports = range(1, 65536)
        said_here = named(enricher, *((TCP, 0, port) for port in ports))
        for port, name in zip(ports, said_here, strict=True):
            try:
                system = socket.getservbyport(port, "tcp")
            except OSError:
                continue
            assert name == system
        assert samples(enricher, "services_names")[()] > 100


async def test_a_system_without_that_file_has_what_is_built_in(monkeypatch, tmp_path):
    monkeypatch.setattr(services, "SYSTEM_FILE", str(tmp_path / "none"))
    async with running(Config(file=str(tmp_path / "none"))) as enricher:
        assert named(enricher, (TCP, 1, 6443)) == ["kube-apiserver"]


async def test_a_file_that_is_missing_ends_the_start(tmp_path):
    with pytest.raises(ConfigError, match=r"services[.]file: cannot read .*: No such file"):
        async with running(Config(file=str(tmp_path / "none")), name="services"):
            pass


@pytest.mark.parametrize("key", ["tcp", "8443", "tcp/0", "tcp/65536", "icmp/8", "tcp/ 80", "tcp:80"])
def test_wrong_names_say_what_is_right(key):
    with pytest.raises(ConfigError, match="such as tcp/8443") as caught:
        build(names={key: "x"})
    assert caught.value.path == f"services.names.{key}"


async def test_the_example_works():
    async with running(example("services")) as enricher:
        assert named(enricher, (TCP, 50000, 8443), (UDP, 5300, 50000), (TCP, 1, 22)) == ["my-api", "dns-test", "ssh"]
