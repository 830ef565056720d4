"""Files of MaxMind's format: what is found in whole columns is what the package finds one by one."""

import ipaddress
from pathlib import Path

import maxminddb
import numpy as np
import pytest
from enriching import addresses
from mmdb_file import write

from flowagent import names
from flowagent.enrich import mmdb
from flowagent.enrich.mmdb import Database, Tree


def number(record):
    return (record["number"],)


def many(rng, version):
    """Prefixes and records that say different things of most addresses asked for."""
    networks = []
    for length in sorted(rng.integers(4, 33, 400).tolist()):
        at = int(rng.integers(0, 2**32)) >> 32 - length << 32 - length
        networks.append(ipaddress.IPv4Network((at, length)))
    if version == 6:
        for length in sorted(rng.integers(8, 129, 200).tolist()):
            at = int.from_bytes(rng.bytes(16)) >> 4 | 2 << 124
            networks.append(ipaddress.IPv6Network((at >> 128 - length << 128 - length, length)))
    return {str(network): {"number": i + 1} for i, network in enumerate(networks)}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("bits", [24, 28, 32])
def test_every_address_has_what_the_package_says(tmp_path, monkeypatch, version, bits):
    monkeypatch.setattr(mmdb, "MAX_NEW", 10_000)
    rng = np.random.default_rng(bits + version)
    records = many(rng, version)
    path = write(tmp_path / "db.mmdb", records, version=version, bits=bits)
    asked = [str(a) for net in map(ipaddress.ip_network, records) for a in (net[0], net[-1])]
    asked += [str(ipaddress.IPv4Address(int(at))) for at in rng.integers(0, 2**32, 2000)]
    asked += ["::", "::1", "2001:db8::1", "ffff::", "0.0.0.0", "255.255.255.255"]
    with maxminddb.open_database(path) as reader:
        assert reader.metadata().record_size == bits
        right = [
            (reader.get(a) or {"number": 0})["number"] if version == 6 or ":" not in a else 0 for a in asked
        ]  # fmt: skip
    database = Database((tmp_path / "db.mmdb").read_bytes(), number, 1)
    assert database.find(addresses(*asked)).tolist() == [right]
    assert len(set(right)) > 200


@pytest.mark.parametrize(
    ("bits", "node", "left", "right"),
    [
        (24, "abcdef 123456", 0xABCDEF, 0x123456),
        (28, "bcdef1 a1 234567", 0xABCDEF1, 0x1234567),
        (32, "89abcdef 12345678", 0x89ABCDEF, 0x12345678),
    ],
)
def test_records_of_any_size_are_read_whole(bits, node, left, right):
    tree = Tree(bytes.fromhex(node) + bytes(16), 1, bits, 4)
    assert tree.find(*addresses("0.0.0.0", "255.0.0.0", "::1")).tolist() == [left - 1, right - 1, 0]


def test_a_tree_that_leads_nowhere_has_an_end():
    tree = Tree(bytes(22), 1, 24, 6)  # one node, both of whose records are itself
    assert tree.find(*addresses("1.2.3.4", "2001:db8::1")).tolist() == [0, 0]


@pytest.mark.parametrize(("nodes", "bits"), [(100, 24), (1, 20), (0, 24), (-1, 28)])
def test_a_tree_that_cannot_be_is_refused(nodes, bits):
    with pytest.raises(ValueError, match="which cannot be"):
        Tree(bytes(64), nodes, bits, 6)


def test_texts_are_names(tmp_path):
    path = write(tmp_path / "db.mmdb", {"10.0.0.0/8": {"name": "ten"}, "11.0.0.0/8": {"name": "eleven"}})
    database = Database(Path(path).read_bytes(), lambda r: (r["name"], len(r["name"])), 2)
    texts, lengths = database.find(addresses("11.1.1.1", "10.1.1.1", "12.1.1.1", "11.2.2.2"))
    assert names.texts(texts).tolist() == [b"eleven", b"ten", b"", b"eleven"]
    assert lengths.tolist() == [6, 3, 0, 6]
    assert database.known.shape == (2, 2)


def build(tmp_path, count=20):
    records = {f"10.{i}.0.0/16": {"number": i + 1} for i in range(count)}
    return Database(Path(write(tmp_path / "db.mmdb", records)).read_bytes(), number, 1)


def test_many_new_records_are_decoded_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(mmdb, "MAX_NEW", 8)
    database = build(tmp_path)
    asked = addresses(*(f"10.{i}.0.1" for i in range(20)))
    found = [np.count_nonzero(database.find(asked)) for _ in range(4)]
    assert found == [8, 16, 20, 20]
    assert database.deferred == 12 + 4
    assert database.find(asked)[0].tolist() == list(range(1, 21))


def test_records_that_are_remembered_have_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(mmdb, "MAX_RECORDS", 8)
    monkeypatch.setattr(mmdb, "MAX_NEW", 4)
    database = build(tmp_path)
    for i in range(20):
        assert database.find(addresses(f"10.{i}.0.1")).tolist() == [[i + 1]]
    assert database.evictions > 0
    assert database.known.shape[1] <= 8
    assert np.count_nonzero(database.find(addresses(*(f"10.{i}.0.1" for i in range(20))))) == 4


def test_what_is_remembered_is_not_forgotten_as_it_is_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(mmdb, "MAX_RECORDS", 24)
    monkeypatch.setattr(mmdb, "MAX_NEW", 4)
    database = build(tmp_path)
    asked = addresses(*(f"10.{i}.0.1" for i in range(20)))
    assert [np.count_nonzero(database.find(asked)) for _ in range(6)] == [4, 8, 12, 16, 20, 20]
    assert database.evictions == 0


def test_a_record_that_cannot_be_read_says_nothing(tmp_path):
    records = {"10.0.0.0/8": {"number": 5}, "11.0.0.0/8": {"number": "five"}, "12.0.0.0/8": {"number": -3}}
    path = write(tmp_path / "db.mmdb", records)

    def read(record):
        return (int(record["number"]),)

    database = Database(Path(path).read_bytes(), lambda r: read(r) if r["number"] != "five" else (0,), 1)
    database._read = read
    assert database.find(addresses("10.0.0.1", "11.0.0.1", "12.0.0.1")).tolist() == [[5, 0, 0]]


def test_damaged_files_are_refused_or_say_nothing_wrong(tmp_path):
    whole = Path(write(tmp_path / "db.mmdb", many(np.random.default_rng(1), 6))).read_bytes()
    rng = np.random.default_rng(5)
    asked = np.stack([np.zeros(500, np.uint64), rng.integers(0, 2**32, 500, np.uint64) | np.uint64(0xFFFF << 32)])
    refused = 0
    for i in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 20):
            data[at] = rng.integers(0, 256)
        data = data[: int(rng.integers(1, len(data)))] if i % 3 == 0 else data
        try:
            Database(bytes(data), lambda record: (int(record["number"]),), 1).find(asked)
        except ValueError:
            refused += 1
    assert refused >= 20


@pytest.mark.parametrize("data", [b"", b"x" * 1000, bytes(5000)])
def test_other_files_are_refused(data):
    with pytest.raises(ValueError, match="is not a MaxMind DB file"):
        Database(data, number, 1)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = write(tmp_path / "db.mmdb", {"10.0.0.0/8": {"other": 1}}, kind="Other-Things")
    with pytest.raises(ValueError, match="is a file of Other-Things, in which there is nothing of this kind"):
        Database(Path(path).read_bytes(), lambda r: (r.get("number", 0),), 1)
