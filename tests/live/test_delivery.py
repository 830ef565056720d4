"""No row that was on disk is lost, whatever ends: the server, the agent, the room on the disk, or the file itself."""

import random
import subprocess

import pytest
from live.agent import Sums
from live.generate import command, generate
from live.outages import Receiver, records_on_disk, spool_file, spooled
from live.polling import until


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture
def restored(receiver):
    """Start an agent again, with the server up; returns the metrics when all is delivered."""

    def start(agent):
        receiver.answer = 204
        if not receiver.is_up:
            receiver.start()
        agent.start()
        until(lambda: is_settled(agent.metrics()), "the spool is empty, and all in it is accounted for")
        return agent.metrics()

    return start


def is_settled(metrics):
    return metrics.total("flowagent_spool_rows") == metrics.total("flowagent_records_pending") == 0


def webhook(receiver, **settings):
    """Sections of an agent that has only this sink."""
    return {"export": [{"type": "webhook", "url": receiver.url, **settings}], "analyse": []}


def sums(rows):
    return Sums(sum(row["packets"] for row in rows), sum(row["bytes"] for row in rows))


def records(rows):
    return sum(row["records"] for row in rows)


def first_rows(rows, count):
    """Those that the first so many records became."""
    found = 0
    for i, row in enumerate(rows):
        if found == count:
            return rows[:i]
        found += row["records"]
    assert found == count
    return rows


@pytest.mark.parametrize("trouble", ["nobody there", "500"])
def test_a_kill_in_an_outage_loses_nothing_that_was_on_disk(make_agent, receiver, restored, trouble):
    """Rows of windows that ended before are all delivered, once and oldest first, as many as the agent counted."""
    if trouble == "500":
        receiver.answer = 500
        receiver.start()
    agent = make_agent(**webhook(receiver))
    sent = generate(agent.port, records=20_000, rate=20_000, keys=3000)
    until(lambda: records_on_disk(agent) == sent.records, "all is on disk")
    with subprocess.Popen(command(agent.port, rate=20_000, keys=3000, seed=2), stdout=subprocess.DEVNULL) as load:
        until(lambda: records_on_disk(agent) > sent.records + 10_000, "more is on disk")
        last = agent.metrics()
        agent.kill()
        load.terminate()
    left = spooled(agent)
    assert receiver.rows == []

    now = restored(agent)
    assert [row["bytes"] for row in receiver.rows] == [value for frame in left for value in frame.bytes]
    assert sums(first_rows(receiver.rows, sent.records)) == sent.sums
    assert records(receiver.rows) == sum(frame.records for frame in left)
    assert last.total("flowagent_spool_rows") <= len(receiver.rows) == now.total("flowagent_sink_records_total")
    assert now.total("flowagent_records_restored_total") == records(receiver.rows)
    assert now.total("flowagent_records_total", outcome="exported") == records(receiver.rows)
    assert now.total("flowagent_records_pending") == 0
    agent.stop()


@pytest.mark.parametrize("trouble", ["comes later", "no answer"])
def test_sigterm_in_an_outage_loses_nothing(make_agent, receiver, restored, trouble):
    """What waits in the window when the signal comes is on disk in the end, too."""
    receiver.answer, receiver.headers = None if trouble == "no answer" else 503, {"Retry-After": "3600"}
    receiver.start()
    agent = make_agent(**webhook(receiver))
    sent = generate(agent.port, records=20_000, rate=20_000, keys=3000)
    until(lambda: agent.metrics().decoded == sent.records, "all records came")
    agent.stop()
    assert records_on_disk(agent) == sent.records
    assert f"{sum(len(frame.bytes) for frame in spooled(agent))} rows stay in the spool" in agent.log

    now = restored(agent)
    assert sums(receiver.rows) == sent.sums
    assert now.total("flowagent_records_restored_total") == records(receiver.rows) == sent.records
    agent.stop()


def test_of_an_outage_that_is_too_long_the_oldest_rows_go_and_are_counted(make_agent, receiver):
    agent = make_agent(**webhook(receiver, spool="200kB", batch_rows=500))
    sent = generate(agent.port, records=60_000, rate=20_000, keys=50_000)
    until(lambda: agent.metrics().decoded == sent.records, "all records came")
    until(lambda: agent.metrics().total("flowagent_records_pending") == records_on_disk(agent), "windows are over")
    away, left = agent.metrics(), spooled(agent)
    dropped = away.total("flowagent_records_total", outcome="dropped", reason="spool_full")
    assert away.total("flowagent_records_total") == dropped > 0
    assert sum(frame.records for frame in left) == sent.records - dropped
    # Frames go whole, and one of 4,096 rows has some 110 kB: so much room there may be, however windows were cut.
    assert 200_000 - 130_000 < away.total("flowagent_spool_bytes") <= 200_000
    # The newest are there, without a gap.
    assert [frame.id for frame in left] == list(range(left[-1].id - len(left) + 1, left[-1].id + 1))

    receiver.start()
    until(lambda: agent.metrics().total("flowagent_records_pending") == 0, "all is sent")
    now = agent.metrics()
    assert [row["bytes"] for row in receiver.rows] == [value for frame in left for value in frame.bytes]
    assert records(receiver.rows) == now.total("flowagent_records_total", outcome="exported")
    assert records(receiver.rows) + dropped == sent.records == now.total("flowagent_records_total")
    assert now.total("flowagent_sink_dropped_rows_total") > 0
    agent.stop()


@pytest.mark.parametrize("damage", ["random bytes", "truncated"])
def test_a_damaged_spool_is_put_aside(make_agent, receiver, restored, damage):
    agent = make_agent(start=False, **webhook(receiver))
    file = spool_file(agent)
    if damage == "truncated":
        agent.start()
        sent = generate(agent.port, records=20_000, rate=50_000, keys=3000)
        agent.stop()
        assert records_on_disk(agent) == sent.records
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.parent.mkdir(parents=True)
        file.write_bytes(random.Random(1).randbytes(50_000))
    damaged = file.read_bytes()

    assert restored(agent).total("flowagent_records_restored_total") == 0
    (error,) = [line for line in agent.log.splitlines() if "is damaged" in line]
    assert "ERROR" in error.upper()
    assert str(file) in error
    assert file.with_name("webhook.damaged-1").read_bytes() == damaged
    sent = generate(agent.port, records=1000, rate=10_000)
    until(lambda: records(receiver.rows) == sent.records, "rows come")
    assert sums(receiver.rows) == sent.sums
    agent.stop()
