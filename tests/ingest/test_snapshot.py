"""Templates and sampling rates survive a restart; a file that cannot be used is set aside."""

import struct

import msgspec
import pytest
from build import FLOW, OVS, define, feed, flow, flow_set, ipfix, options_template, ovs_flow, v9

from flowagent.clock import ManualClock
from flowagent.component import Context
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.snapshot import Snapshot


@pytest.fixture
def ctx(tmp_path):
    return Context("udp", state_dir=tmp_path / "state")


def taught():
    """A decoder that has met three exporters."""
    decoder = Decoder()
    rate = options_template(256, 1, (144, 4), (34, 4))
    feed(decoder, ipfix(flow_set(3, rate), flow_set(256, struct.pack("!II", 0, 50))), ipfix(define(300, *FLOW)))
    feed(decoder, ipfix(flow_set(3, options_template(257, 0, (160, 8))), flow_set(257, struct.pack("!Q", 5))))
    feed(decoder, v9(define(301, *FLOW, version=9)), exporter="2001:db8::1")
    feed(decoder, ipfix(define(302, *OVS)), exporter="192.0.2.3", port=9)
    return decoder


def restored(ctx):
    decoder = Decoder()
    Snapshot(ctx).load(decoder.exporters)
    return decoder


def test_a_restarted_agent_decodes_at_once(ctx):
    Snapshot(ctx).save(taught().exporters)
    decoder = restored(ctx)
    (row,) = feed(decoder, ipfix(flow_set(300, flow())))
    assert (row["bytes"], row["sampling_rate"]) == (100, 50)
    assert len(feed(decoder, v9(flow_set(301, flow())), exporter="2001:db8::1")) == 1
    assert len(feed(decoder, ipfix(flow_set(302, ovs_flow())), exporter="192.0.2.3", port=10)) == 1
    assert decoder.stats.held == 0
    assert known(decoder) == known(taught())


def known(decoder):
    """All that is saved but the times of use."""
    saved = decoder.exporters.snapshot()
    return [{**domain, "templates": [template[:-1] for template in domain["templates"]]} for domain in saved]


def test_templates_are_as_good_as_new_after_a_restart(ctx):
    Snapshot(ctx).save(taught().exporters)
    later = Context(ctx.name, ManualClock(ctx.clock.now_ns() + 30 * 86400 * 10**9), state_dir=ctx.state_dir)
    decoder = restored(later)
    decoder.expire(later.clock.now_ns())
    assert known(decoder) == known(taught())


def test_what_did_not_change_is_not_written_again(ctx):
    snapshot, decoder = Snapshot(ctx), taught()
    snapshot.save(decoder.exporters)
    snapshot.path.unlink()
    snapshot.save(decoder.exporters)
    assert not snapshot.path.exists()
    feed(decoder, ipfix(define(400, *FLOW)))
    snapshot.save(decoder.exporters)
    assert snapshot.path.exists()


def test_what_was_loaded_is_not_written_again(ctx):
    Snapshot(ctx).save(taught().exporters)
    snapshot, decoder = Snapshot(ctx), Decoder()
    snapshot.load(decoder.exporters)
    snapshot.path.unlink()
    snapshot.save(decoder.exporters)
    assert not snapshot.path.exists()


def test_no_file_is_no_trouble(ctx):
    assert list(restored(ctx).exporters) == []


def test_an_agent_without_a_state_directory_keeps_nothing():
    snapshot = Snapshot(Context("udp"))
    assert snapshot.path is None
    snapshot.save(taught().exporters)
    snapshot.load(Decoder().exporters)


def wrong_template(body):
    good = taught().exporters.snapshot()
    good[0]["templates"] = [[300, 7, 0, body, 1, 0]]
    return msgspec.msgpack.encode({"format": 1, "exporters": good})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"not a snapshot",
        msgspec.msgpack.encode(5),
        msgspec.msgpack.encode({"format": 99, "exporters": []}),
        msgspec.msgpack.encode({"format": 1}),
        msgspec.msgpack.encode({"format": 1, "exporters": [{"key": [1]}]}),
        msgspec.msgpack.encode({"format": 1, "exporters": [{"key": ["a", 1, 10, 0], "templates": [], "rates": []}]}),
        wrong_template(b"\0\x8a\0"),
    ],
)
def test_a_file_that_cannot_be_used_is_set_aside(ctx, caplog, content):
    snapshot = Snapshot(ctx)
    snapshot.path.parent.mkdir()
    snapshot.path.write_bytes(content)
    snapshot.load(Decoder().exporters)
    assert not snapshot.path.exists()
    assert snapshot.path.with_suffix(".bad").read_bytes() == content
    assert "cannot use the saved templates" in caplog.text


def test_any_cut_of_a_file_is_survived(ctx):
    snapshot = Snapshot(ctx)
    snapshot.save(taught().exporters)
    whole = snapshot.path.read_bytes()
    for end in range(0, len(whole), 7):
        snapshot.path.write_bytes(whole[:end])
        snapshot.load(Decoder().exporters)
        assert not snapshot.path.exists()


def test_a_directory_that_cannot_be_written_is_told_once(ctx, caplog):
    ctx.state_dir.write_text("a file where the directory should be")
    snapshot, decoder = Snapshot(ctx), taught()
    snapshot.save(decoder.exporters)
    snapshot.save(decoder.exporters)
    assert caplog.text.count("cannot save templates") == 1
    ctx.state_dir.unlink()
    snapshot.save(decoder.exporters)
    assert snapshot.path.exists()


def test_the_file_is_replaced_as_a_whole(ctx):
    snapshot, decoder = Snapshot(ctx), taught()
    snapshot.save(decoder.exporters)
    old = snapshot.path.open("rb")
    feed(decoder, ipfix(define(400, *FLOW)))
    snapshot.save(decoder.exporters)
    with old:
        assert old.read() != snapshot.path.read_bytes()
    assert [p.name for p in ctx.state_dir.iterdir()] == [snapshot.path.name]
