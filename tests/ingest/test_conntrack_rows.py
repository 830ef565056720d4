"""Rows of connections: one for each direction, with what became of the addresses on the way."""

import numpy as np
from test_conntrack_message import DUMP, EVENTS, read

from flowagent.addresses import address_text, address_words
from flowagent.batch import Batch
from flowagent.ingest.conntrack_message import DELETE
from flowagent.ingest.conntrack_rows import Seen, counters_of, is_dying, keys_of, rows_of
from flowagent.ingest.conntrack_table import News

NODE = address_words("192.0.2.7")
NOW, LAST = 1_800_000_000 * 10**9, 1_790_000_000 * 10**9


def rows(file=DUMP, *, known=False, ended=False, without=(), entries=None):
    """Rows of all entries as dictionaries, by source, destination and ports."""
    if entries is None:
        found, entries, of = read(file.read_bytes())
        if file == EVENTS:
            entries = entries.take(np.array(found.kind)[of] == DELETE)
    columns = {name: column for name, column in entries.columns.items() if name not in without}
    entries = Batch(columns, len(entries), {n: v for n, v in entries.valid.items() if n in columns})
    news = News(counters_of(entries), np.full(len(entries), known))
    batch = rows_of(entries, news, NODE, Seen(NOW, LAST), ended=ended)
    found = []
    for i in range(len(batch)):
        row = {}
        for name, column in batch.columns.items():
            if batch.is_known(name)[i]:
                value = column[..., i]
                row[name] = address_text(*value.tolist()) if value.ndim else value.item()
        found.append(row)
    return found


def one(found, **like):
    (row,) = [row for row in found if like.items() <= row.items()]
    return row


def nat(row):
    return {name[4:]: value for name, value in row.items() if name.startswith("nat_")}


def test_each_direction_with_packets_is_a_row():
    found = rows()
    assert len(found) == 11  # six connections, one without a reply
    there = one(found, src_addr="10.1.0.2", dst_addr="10.2.0.2", dst_port=8001)
    back = one(found, src_addr="10.2.0.2", dst_addr="10.1.0.2", src_port=8001)
    assert (there["packets"], there["bytes"], there["proto"], there["src_port"]) == (1, 31, 17, 37264)
    assert (back["packets"], back["bytes"], back["proto"], back["dst_port"]) == (1, 31, 17, 37264)
    assert nat(there) == nat(back) == {}
    assert there["exporter"] == "192.0.2.7"
    assert (there["records"], there["sampling_rate"], there["sampling_source"], there["received_ns"]) == (1, 1, 1, NOW)
    assert "tcp_flags" not in there


def test_translation_of_both_ends_as_each_direction_meets_it():
    found = rows()
    there = one(found, src_addr="10.1.0.2", dst_addr="10.1.0.1", dst_port=8080)
    assert (there["packets"], there["bytes"]) == (6, 323)
    assert nat(there) == {"src_addr": "10.2.0.1", "dst_addr": "10.2.0.2", "src_port": 35266, "dst_port": 8000}
    back = one(found, src_addr="10.2.0.2", src_port=8000)
    assert (back["dst_addr"], back["packets"], back["bytes"]) == ("10.2.0.1", 4, 219)
    assert nat(back) == {"src_addr": "10.1.0.1", "dst_addr": "10.1.0.2", "src_port": 8080, "dst_port": 35266}


def test_translation_of_ipv6_and_of_a_port():
    there = one(rows(), src_addr="fd01::2", dst_port=8002)
    assert nat(there) == {"src_addr": "fd02::1", "dst_addr": "fd02::2", "src_port": 7005, "dst_port": 8002}


def test_icmp_has_type_and_code_and_no_ports():
    found = rows()
    there, back = one(found, proto=1, src_addr="10.1.0.2"), one(found, proto=1, src_addr="10.2.0.2")
    assert (there["icmp_type"], there["icmp_code"], back["icmp_type"]) == (8, 0, 0)
    assert "src_port" not in there
    assert one(found, proto=58, src_addr="fd02::2")["icmp_type"] == 129
    assert "icmp_type" not in one(found, proto=17, dst_port=9)


def test_ends_of_connections_tell_when_they_were():
    row = one(rows(EVENTS, ended=True), dst_port=8080)
    assert 1_795_000_000 * 10**9 < row["start_ns"] < row["end_ns"] < NOW


def test_what_was_told_of_before_begins_where_that_ended():
    fresh, again = one(rows(), dst_port=8080), one(rows(known=True), dst_port=8080)
    assert fresh["start_ns"] > LAST
    assert again["start_ns"] == fresh["start_ns"]
    assert fresh["end_ns"] == again["end_ns"] == NOW
    _, entries, _ = read(DUMP.read_bytes())
    old = entries.with_columns({"start_ns": np.full(len(entries), 5, np.int64)})
    assert one(rows(entries=old, known=True), dst_port=8080)["start_ns"] == LAST
    assert one(rows(entries=old), dst_port=8080)["start_ns"] == 5


def test_nothing_ends_before_it_began_when_the_clock_is_set_back():
    _, entries, _ = read(DUMP.read_bytes())
    late = entries.with_columns({"start_ns": np.full(len(entries), NOW + 5, np.int64)})
    for known in (False, True):
        row = one(rows(entries=late, known=known), dst_port=8080)
        assert (row["start_ns"], row["end_ns"]) == (NOW, NOW)


def test_without_timestamps_times_are_unknown():
    assert not any("start_ns" in row or "end_ns" in row for row in rows(without=("start_ns",)))


def test_without_accounting_ends_are_told_without_sums():
    counted = ("packets", "bytes", "reply_packets", "reply_bytes")
    assert rows(without=counted) == []
    found = rows(EVENTS, ended=True, without=counted)
    assert len(found) == 11
    assert not any("bytes" in row or "packets" in row for row in found)


def test_some_counted_and_some_not():
    found, entries, of = read(EVENTS.read_bytes())
    ended = entries.take(np.array(found.kind)[of] == DELETE)
    known = ended["dst_port"] == 8080
    valid = dict.fromkeys(("packets", "bytes", "reply_packets", "reply_bytes"), known)
    some = rows(entries=Batch(ended.columns, len(ended), {**ended.valid, **valid}), ended=True)
    assert len(some) == 11
    assert sum("bytes" in row for row in some) == 2


def test_keys_tell_tuples_ids_and_zones_apart():
    _, entries, _ = read(DUMP.read_bytes())
    keys = keys_of(entries)
    assert len(set(keys.tolist())) == len(entries)
    assert keys_of(entries.take(np.array([2, 0]))).tolist() == keys[[2, 0]].tolist()
    for name in ("id", "src_port"):
        other = entries.with_columns({name: entries[name] + 1}, {n: v for n, v in entries.valid.items() if n == name})
        assert (keys_of(other) != keys)[entries.is_known(name)].all()
    zoned = entries.with_columns({"zone": np.full(len(entries), 9, np.uint16)})
    assert (keys_of(zoned) != keys).all()


def test_a_key_does_not_depend_on_other_entries():
    found, entries, of = read(DUMP.read_bytes())
    for row in range(len(entries)):
        at, size = found.offset[of[row]], found.length[of[row]]
        _, alone, _ = read(DUMP.read_bytes()[at : at + size])
        assert keys_of(alone)[0] == keys_of(entries)[row]


def test_a_key_is_the_same_in_dump_and_event():
    found, entries, of = read(EVENTS.read_bytes())
    ended = entries.take(np.array(found.kind)[of] == DELETE)
    assert set(keys_of(ended).tolist()) == set(keys_of(read(DUMP.read_bytes())[1]).tolist())
    assert is_dying(ended).all()
    assert not is_dying(read(DUMP.read_bytes())[1]).any()
