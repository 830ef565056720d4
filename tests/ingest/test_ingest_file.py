"""Source `file`: what is read of files that are there, come, grow and are damaged, and what becomes of them."""

import asyncio
import contextlib
import gzip
import json
import os
from pathlib import Path

import msgspec
import pytest
import zstandard
from captured import decoded

from flowagent.component import Context
from flowagent.errors import ConfigError
from flowagent.ingest import file as file_module
from flowagent.ingest import filebook
from flowagent.ingest.file import Config

EXPORTS = (Path(__file__).parents[1] / "data" / "captures" / "fprobe-v5.pcap").read_bytes()


class Taker:
    """Takes what is delivered."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch)
        return len(self.batches)

    @property
    def bytes(self):
        return self.column("bytes")

    def column(self, name):
        return [value for batch in self.batches for value in batch[name].tolist()]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "_LOOK", 0.01)
    return Bench(tmp_path)


class Bench:
    def __init__(self, tmp_path):
        self.directory, self.state = tmp_path / "in", tmp_path / "state"
        self.directory.mkdir()
        self.taker = Taker()

    @contextlib.asynccontextmanager
    async def running(self, **settings):
        given = {"path": str(self.directory / "*"), "every": 0.01, "complete_after": 0.1, **settings}
        source = msgspec.convert(given, Config).build(Context("file", state_dir=self.state))
        async with source:
            task = asyncio.get_running_loop().create_task(source.run(self.taker))
            self.task = task
            try:
                yield source
            finally:
                task.cancel()
                await asyncio.wait([task])

    async def once(self, **settings):
        """Read all that is there, with all of it settled in the end."""
        async with self.running(once=True, **settings) as source:
            await asyncio.wait([self.task], timeout=5)
            assert self.task.exception() is None
            source.settled(len(self.taker.batches), 0.0)
        return source

    def write(self, name, *octets, age=0, end="\n"):
        path = self.directory / name
        path.write_text("\n".join(json.dumps({"bytes": n}) for n in octets) + end)
        return aged(path, age)


def aged(path, age):
    moment = path.stat().st_mtime_ns - age * 10**9
    os.utime(path, ns=(moment, moment))
    return path


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def metric(source, name):
    family = [f for f in source._families() if f.name == f"flowagent_{name}"]
    return {key[1:]: n for f in family for key, n in f.samples.items() if n}


async def test_files_are_read_the_oldest_first(bench):
    bench.write("b.ndjson", 3, age=10)
    bench.write("a.ndjson", 4, 5, age=5)
    bench.write("c.ndjson", 1, 2, age=20)
    source = await bench.once()
    assert bench.taker.bytes == [1, 2, 3, 4, 5]
    assert metric(source, "files") == {("read",): 3}
    assert metric(source, "ingest_records") == {("canonical",): 5}


async def test_what_was_read_is_not_read_again_after_a_restart(bench):
    path = bench.write("a.ndjson", 1, 2)
    await bench.once()
    with path.open("a") as file:
        file.write('{"bytes":3}\n')
    await bench.once()
    assert bench.taker.bytes == [1, 2, 3]
    assert len(set(bench.taker.column("row_id"))) == 3


async def test_what_was_not_settled_is_read_again_with_the_same_numbers(bench):
    bench.write("a.ndjson", 1, 2)
    async with bench.running(once=True):
        await asyncio.wait([bench.task])
    await bench.once()
    assert bench.taker.bytes == [1, 2, 1, 2]
    assert len(set(bench.taker.column("row_id"))) == 2


async def test_another_file_of_the_same_name_is_read(bench):
    path = bench.write("a.ndjson", 1, 2)
    await bench.once()
    (bench.directory.parent / "new").write_text('{"bytes":7}\n')
    (bench.directory.parent / "new").replace(path)
    await bench.once()
    assert bench.taker.bytes == [1, 2, 7]


async def test_lines_are_followed_while_a_file_grows(bench):
    path = bench.write("a.ndjson", 1, end="")
    async with bench.running(complete_after=60) as source:
        await asyncio.sleep(0.05)
        assert bench.taker.batches == []
        with path.open("a") as file:
            file.write('\n{"bytes":2}\n{"byt')
        await until(lambda: bench.taker.bytes == [1, 2])
        with path.open("a") as file:
            file.write('es":3}\n')
        await until(lambda: bench.taker.bytes == [1, 2, 3])
        source.settled(3, 0.0)
        await until(lambda: b'"rows":3' in (bench.state / "files-file.json").read_bytes())
    await bench.once()
    assert bench.taker.bytes == [1, 2, 3]


async def test_a_compressed_file_is_read_once_it_is_complete(bench):
    path = bench.directory / "a.gz"
    data = gzip.compress(b'{"bytes":1}\n')
    path.write_bytes(data[:10])
    async with bench.running(complete_after=0.3):
        await asyncio.sleep(0.1)
        path.write_bytes(data)
        await asyncio.sleep(0.1)
        assert bench.taker.batches == []
        await until(lambda: bench.taker.batches)
    assert bench.taker.bytes == [1]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
async def test_compressed_lines_and_captures(bench, pack):
    (bench.directory / "a").write_bytes(pack(b'{"bytes":1}\n{"bytes":2}\n'))
    aged(bench.directory / "a", 9)
    (bench.directory / "b").write_bytes(pack(EXPORTS))
    await bench.once()
    assert bench.taker.bytes[:2] == [1, 2]
    assert sorted(bench.taker.bytes[2:]) == sorted(decoded("fprobe-v5")[1]["bytes"].tolist())


async def test_captures_of_exports(bench):
    (bench.directory / "a.pcap").write_bytes(EXPORTS)
    source = await bench.once()
    octets = decoded("fprobe-v5")[1]["bytes"].tolist()
    assert sorted(bench.taker.bytes) == sorted(octets)
    assert metric(source, "ingest_records") == {("netflow5",): len(octets)}
    assert metric(source, "files") == {("read",): 1}


async def test_packets_are_counted_into_flows(bench):
    (bench.directory / "a.pcap").write_bytes(EXPORTS)
    source = await bench.once(captures="packets")
    assert bench.taker.column("dst_port") == [10001]
    assert metric(source, "ingest_records") == {("canonical",): 1}


async def test_parquet(bench):
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"bytes": [1, 2], "src_addr": ["10.0.0.1", "::1"]}), bench.directory / "a.parquet")
    await bench.once()
    assert bench.taker.bytes == [1, 2]


@pytest.mark.parametrize(
    ("data", "rows"),
    [(gzip.compress(b'{"bytes":1}\n' * 10)[:-9], 10), (b"PAR1 and no more", 0), (EXPORTS[:20], 0),
     (b"x" * (1 << 20), 0), (zstandard.compress(b'{"bytes":1}\n')[:6] + b"nonsense", 0)],
    ids=["cut gzip", "no parquet", "cut capture", "no lines", "damaged zstd"],
)  # fmt: skip
async def test_a_bad_file_is_set_aside_and_costs_nothing_else(bench, data, rows, caplog):
    (bench.directory / "bad").write_bytes(data)
    aged(bench.directory / "bad", 9)
    bench.write("good", 7)
    source = await bench.once(then="delete")
    assert bench.taker.bytes[-1:] == [7]
    assert len(bench.taker.bytes) <= rows + 1
    assert metric(source, "files") == {("read",): 1, ("bad",): 1}
    assert names_in(bench.directory) == ["bad.bad"]
    assert "bad " in caplog.text


async def test_a_bad_line_costs_itself(bench):
    (bench.directory / "a").write_text('{"bytes":1}\nnonsense\n{"bytes":-1}\n{"bytes":2}\n')
    source = await bench.once()
    assert bench.taker.bytes == [1, 2]
    assert metric(source, "ingest_errors") == {("canonical", "bad_message"): 1, ("canonical", "bad_value"): 1}


async def test_a_file_is_let_go_only_when_its_rows_are_settled(bench):
    path = bench.write("a", 1, age=9)
    async with bench.running(then="delete") as source:
        await until(lambda: bench.taker.batches)
        await asyncio.sleep(0.05)
        assert path.exists()
        source.settled(1, 0.0)
        await until(lambda: not path.exists())


async def test_files_that_were_read_may_be_moved(bench, tmp_path):
    (tmp_path / "done").mkdir()
    bench.write("a", 1)
    await bench.once(then="move", move_to=str(tmp_path / "done"))
    assert names_in(bench.directory) == []
    assert names_in(tmp_path / "done") == ["a"]


async def test_files_under_way_are_left_alone(bench):
    bench.write("a.part", 1)
    bench.write("b.bad", 2)
    await bench.once()
    assert bench.taker.batches == []


async def test_nothing_is_read_while_a_sink_is_full(bench):
    for i in range(3):
        bench.write(f"{i}", i, age=9 - i)
    async with bench.running() as source:
        source.settled(0, 0.9)
        await until(lambda: bench.taker.batches)
        await asyncio.sleep(0.1)
        assert len(bench.taker.batches) == 1
        source.settled(0, 0.0)
        await until(lambda: len(bench.taker.batches) == 3)


async def test_it_remembers_a_bounded_number_of_files(bench, monkeypatch):
    monkeypatch.setattr(filebook, "MAX_FILES", 2)
    for i in range(3):
        bench.write(f"{i}", i, age=9 - i)
    async with bench.running(once=True) as source:
        await asyncio.wait([bench.task])
    assert bench.taker.bytes == [0, 1]
    assert len(source._book) == 2


async def test_a_state_that_is_damaged_is_set_aside(bench, caplog):
    bench.state.mkdir()
    (bench.state / "files-file.json").write_text("{")
    bench.write("a", 1)
    await bench.once()
    assert bench.taker.bytes == [1]
    assert "all files are read again" in caplog.text
    assert (bench.state / "files-file.bad").exists()


async def test_files_that_went_are_forgotten(bench):
    path = bench.write("a", 1)
    await bench.once()
    path.unlink()
    source = await bench.once()
    assert len(source._book) == 0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"path": ""}, "is empty"),
        ({"path": "x", "then": "move"}, "write both"),
        ({"path": "x", "move_to": "y"}, "both"),
    ],
)
def test_settings_that_are_wrong(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        msgspec.convert(settings, Config).build(Context("file"))


async def test_a_directory_to_move_to_must_be_there(bench):
    with pytest.raises(ConfigError, match="is no directory"):
        await bench.once(then="move", move_to=str(bench.directory / "none"))
