"""Random exports: programs that share no code with flowagent read the same sums out of them."""

import pytest
from live.exports import random_exports
from live.generate import generated
from live.peers import flowagent_reads, nfdump_reads, tshark_reads, tshark_reads_sflow, write_capture

pytestmark = pytest.mark.service("tshark", "nfcapd", "nfdump")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("version", [9, 10])
def test_all_agree_on_random_templates(tmp_path, version, seed):
    datagrams, truth = random_exports(version, seed)
    capture = tmp_path / "exports.pcap"
    write_capture(capture, datagrams)
    assert flowagent_reads(capture) == truth
    assert tshark_reads(capture) == truth
    assert nfdump_reads(datagrams, tmp_path / "nfcapd") == truth


@pytest.mark.parametrize("protocol", ["netflow5", "netflow9", "ipfix", "ovs"])
def test_all_agree_on_what_generate_sends(tmp_path, protocol):
    datagrams, truth = generated(protocol=protocol, records=500, rate=2000, seed=3)
    capture = tmp_path / "exports.pcap"
    write_capture(capture, datagrams)
    assert flowagent_reads(capture) == truth
    assert tshark_reads(capture) == truth
    if protocol != "ovs":  # nfdump takes Open vSwitch's running totals for counts of the flow
        assert nfdump_reads(datagrams, tmp_path / "nfcapd") == truth


def test_all_agree_on_sampled_packets(tmp_path):
    datagrams, truth = generated(protocol="sflow5", records=500, rate=2000, seed=3, sampling_rate=100)
    capture = tmp_path / "exports.pcap"
    write_capture(capture, datagrams)
    assert flowagent_reads(capture) == truth
    assert tshark_reads_sflow(capture) == truth
