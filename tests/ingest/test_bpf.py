"""Filters for the kernel: what libpcap compiles, and what samples."""

import ctypes
import struct

import pytest

from flowagent.ingest import bpf

needs_libpcap = pytest.mark.service("tcpdump")  # which depends on it


def instructions(program):
    return [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]


def test_without_a_rule_all_packets_are_cut():
    assert instructions(bpf.program("", link=1, snaplen=128)) == [(0x06, 0, 0, 128)]


def test_a_sample_comes_before_the_rule():
    *head, last = instructions(bpf.program("", link=1, snaplen=128, one_in=10))
    # ld rand; mod #10; jeq #0, over the next; ret #0
    assert head == [(0x20, 0, 0, 0xFFFFF038), (0x94, 0, 0, 10), (0x15, 1, 0, 0), (0x06, 0, 0, 0)]
    assert last == (0x06, 0, 0, 128)


@needs_libpcap
def test_a_rule_is_compiled_for_its_link_type():
    ethernet, raw = (instructions(bpf.program("udp port 53", link=link, snaplen=96)) for link in (1, 101))
    assert ethernet[0] == (0x28, 0, 0, 12)  # the EtherType
    assert raw[0] != ethernet[0]
    assert (0x06, 0, 0, 96) in ethernet
    assert (0x06, 0, 0, 0) in ethernet


@needs_libpcap
@pytest.mark.parametrize("rule", ["udp prot 53", "(", "host"])
def test_a_wrong_rule_says_what_is_wrong(rule):
    with pytest.raises(ValueError, match=r"\w"):
        bpf.program(rule, link=1, snaplen=96)


def test_without_libpcap_only_rules_cannot_be(monkeypatch):
    def nothing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", nothing)
    assert bpf.program("", link=1, snaplen=96, one_in=5)
    with pytest.raises(ImportError, match="libpcap"):
        bpf.program("tcp", link=1, snaplen=96)


def test_the_kernels_structure_points_to_the_instructions():
    program = bpf.program("", link=1, snaplen=128, one_in=3)
    value, memory = bpf.attachable(program)
    length, address = struct.unpack("HxxxxxxQ", value)
    assert length == 5
    assert ctypes.string_at(address, len(program)) == program
    assert memory.raw == program
