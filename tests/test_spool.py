"""The spool: order, bound, what survives a kill, and damaged files."""

import logging
import sqlite3
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent.batch import Batch
from flowagent.spool import Spool

LOG = logging.getLogger("test")


def rows(*values, records=1):
    n = len(values)
    return Batch({"bytes": np.array(values, "u8"), "records": np.full(n, records, "u8")})


def noise(seed, n=1000):
    """Rows that do not compress."""
    return Batch({"bytes": np.random.default_rng(seed).integers(0, 2**63, n, np.uint64)})


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "spool" / "out.sqlite", 1 << 20, LOG).open()
    yield made
    made.close()


def drained(spool):
    out = []
    while (found := spool.oldest()) is not None:
        entry, batch = found
        out += batch["bytes"].tolist()
        spool.remove(entry.id)
    return out


def test_first_in_first_out(spool):
    for values in ((1, 2), (3,), (4, 5, 6)):
        spool.put(rows(*values))
    assert (len(spool), spool.rows) == (3, 6)
    assert drained(spool) == [1, 2, 3, 4, 5, 6]
    assert (len(spool), spool.rows, spool.bytes) == (0, 0, 0)


def test_the_oldest_stays_until_it_is_removed(spool):
    spool.put(rows(1))
    entry, _ = spool.oldest()
    assert spool.oldest()[0] == entry
    spool.remove(entry.id)
    spool.remove(entry.id)
    assert spool.oldest() is None


def test_it_says_what_rows_stand_for(spool):
    entry, _ = spool.put(rows(1, 2, records=50))
    assert (entry.rows, entry.records) == (2, 100)


def test_full_it_drops_the_oldest(tmp_path):
    spool = Spool(tmp_path / "out.sqlite", 40_000, LOG).open()
    dropped = []
    for seed in range(20):
        dropped += spool.put(noise(seed))[1]
        assert spool.bytes <= 40_000
    assert [entry.id for entry in dropped] == list(range(1, len(dropped) + 1))
    assert len(dropped) + len(spool) == 20
    kept = 20 - len(spool)
    assert spool.oldest()[1]["bytes"].tolist() == noise(kept)["bytes"].tolist()
    spool.close()
    assert (tmp_path / "out.sqlite").stat().st_size < 200_000


def test_one_batch_above_the_bound_is_kept_alone(tmp_path):
    spool = Spool(tmp_path / "out.sqlite", 100, LOG).open()
    spool.put(rows(1))
    _, dropped = spool.put(noise(1))
    assert (len(dropped), len(spool)) == (1, 1)
    spool.close()


def test_the_next_run_takes_up_what_is_there(tmp_path):
    first = Spool(tmp_path / "out.sqlite", 1 << 20, LOG).open()
    first.put(rows(1, 2))
    first.close()
    second = Spool(tmp_path / "out.sqlite", 1 << 20, LOG).open()
    second.put(rows(3))
    assert [entry.rows for entry in second.entries()] == [2, 1]
    assert drained(second) == [1, 2, 3]
    second.close()


def test_what_was_put_survives_a_kill(tmp_path):
    program = f"""
        import logging, os, signal
        from pathlib import Path
        import numpy as np
        from flowagent.batch import Batch
        from flowagent.spool import Spool
        spool = Spool(Path({str(tmp_path / "out.sqlite")!r}), 1 << 20, logging.getLogger())
        spool.open()
        for n in range(50):
            spool.put(Batch({{"bytes": np.array([n], "u8")}}))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -9
    spool = Spool(tmp_path / "out.sqlite", 1 << 20, LOG).open()
    assert drained(spool) == list(range(50))
    spool.close()


@pytest.mark.parametrize("garbage", [b"not a database at all" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_file_is_put_aside(tmp_path, caplog, garbage):
    path = tmp_path / "out.sqlite"
    path.write_bytes(garbage)
    spool = Spool(path, 1 << 20, LOG).open()
    spool.put(rows(7))
    assert drained(spool) == [7]
    spool.close()
    assert (tmp_path / "out.damaged-1").read_bytes() == garbage
    assert "is damaged" in caplog.text


def test_a_second_damaged_file_does_not_replace_the_first(tmp_path):
    for _ in range(2):
        (tmp_path / "out.sqlite").write_bytes(b"garbage" * 1000)
        Spool(tmp_path / "out.sqlite", 1 << 20, LOG).open().close()
    assert len(list(tmp_path.glob("out.damaged-*"))) == 2


@pytest.mark.parametrize("seed", range(10))
def test_a_file_that_is_damaged_somewhere_takes_rows(tmp_path, seed):
    path = tmp_path / "out.sqlite"
    spool = Spool(path, 1 << 20, LOG).open()
    for n in range(20):
        spool.put(noise(n))
    spool.close()
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    start = int(rng.integers(len(data) - 6000))
    data[start : start + 6000] = rng.bytes(6000)
    path.write_bytes(data)
    spool.open()
    spool.put(rows(7))
    assert drained(spool)[-1] == 7
    spool.close()


def test_a_truncated_file_is_put_aside(tmp_path, caplog):
    path = tmp_path / "out.sqlite"
    spool = Spool(path, 1 << 20, LOG).open()
    for n in range(20):
        spool.put(noise(n))
    spool.close()
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(half)
    spool.open()
    assert len(spool) == 0
    spool.close()
    assert (tmp_path / "out.damaged-1").read_bytes() == half
    assert str(path) in caplog.text


def test_a_file_that_cannot_be_used_for_now_stays(tmp_path, monkeypatch):
    """A full disk, or another process that has it, says nothing of the rows in it."""
    path = tmp_path / "out.sqlite"
    spool = Spool(path, 1 << 20, LOG).open()
    spool.put(rows(1, 2))
    spool.close()
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **{**more, "timeout": 0}))
    other = connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match="locked"):
        spool.open()
    other.close()
    assert [entry.rows for entry in spool.open().entries()] == [2]
    spool.close()
    assert not list(tmp_path.glob("out.damaged-*"))


def test_a_damaged_frame_costs_only_itself(tmp_path, caplog):
    spool = Spool(tmp_path / "out.sqlite", 1 << 20, LOG).open()
    for n in (1, 2, 3):
        spool.put(rows(n))
    spool.close()
    with sqlite3.connect(tmp_path / "out.sqlite") as db:
        db.execute("UPDATE frames SET data = X'00' WHERE id = 2")
    db.close()
    spool.open()
    entry, batch = spool.oldest()
    spool.remove(entry.id)
    assert batch["bytes"].tolist() == [1]
    entry, batch = spool.oldest()
    assert len(batch) == 0
    spool.remove(entry.id)
    assert drained(spool) == [3]
    assert "cannot be read" in caplog.text
    spool.close()


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Spool(tmp_path / "file" / "out.sqlite", 1 << 20, LOG).open()


def test_closed_it_refuses(spool):
    spool.close()
    with pytest.raises(OSError, match="not open"):
        spool.put(rows(1))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(st.integers(1, 5), st.just("remove"), st.just("reopen")), max_size=25))
def test_it_behaves_as_a_queue(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("spool") / "out.sqlite"
    spool, model, count = Spool(path, 1 << 20, LOG).open(), [], 0
    for step in steps:
        if step == "remove":
            if model:
                spool.remove(spool.oldest()[0].id)
                model.pop(0)
        elif step == "reopen":
            spool.close()
            spool = Spool(path, 1 << 20, LOG).open()
        else:
            model.append(list(range(count, count + step)))
            spool.put(rows(*model[-1]))
            count += step
        assert (len(spool), spool.rows) == (len(model), sum(map(len, model)))
    assert drained(spool) == [value for part in model for value in part]
    spool.close()
