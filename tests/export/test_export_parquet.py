"""The Parquet sink: complete files by time, rows that outlive a killed agent, and a full disk that is not the end."""

import asyncio
import errno
import json
import logging
import os
import re
import subprocess
import sys
from io import FileIO
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml

from flowagent import config
from flowagent.batch import Batch
from flowagent.clock import SECOND, ManualClock
from flowagent.component import Context
from flowagent.errors import ConfigError, Retry
from flowagent.export import parquet
from flowagent.export.encode import json_lines
from flowagent.export.parquet import Config
from flowagent.ingest.parquet import read

START = 1_700_000_000 * SECOND  # 2023-11-14T22:13:20Z
DOCS = Path(__file__).parents[2] / "docs" / "sinks" / "parquet.md"
TEMPLATE = "date=%Y-%m-%d/hour=%H/part-%H%M%S.parquet"


@pytest.fixture
def clock():
    return ManualClock(START)


def sink(directory, clock, name=TEMPLATE, **settings):
    return Config(path=str(directory / name), **settings).build(Context("pq", clock))


def rows(*values, **columns):
    return Batch({"bytes": np.array(values, "u8"), **columns})


def files(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def numbers(directory):
    return sorted(ds.dataset(directory, format="parquet", partitioning="hive").to_table()["bytes"].to_pylist())


async def test_a_file_is_complete_when_it_has_its_name(tmp_path, clock):
    async with sink(tmp_path, clock) as out:
        assert await out.write(rows(1, 2)) > 0
        assert files(tmp_path) == ["date=2023-11-14/hour=22/.part-221320.parquet.part"]
        await out.write(rows(3))
    assert files(tmp_path) == ["date=2023-11-14/hour=22/part-221320.parquet"]
    assert numbers(tmp_path) == [1, 2, 3]


async def test_readers_of_the_directory_pass_over_what_is_not_complete(tmp_path, clock):
    async with sink(tmp_path, clock) as out:
        await out.write(rows(1))
        clock.advance(300)
        await out.write(rows(2))
        assert numbers(tmp_path) == [1]


async def test_the_directories_are_columns(tmp_path, clock):
    async with sink(tmp_path, clock) as out:
        await out.write(rows(1))
    table = ds.dataset(tmp_path, format="parquet", partitioning="hive").to_table()
    assert table.to_pylist() == [{"bytes": 1, "date": "2023-11-14", "hour": 22}]


async def test_files_end_at_multiples_of_their_time(tmp_path, clock):
    async with sink(tmp_path, clock) as out:
        for value in range(6):
            await out.write(rows(value))
            clock.advance(100)
    found = {name: pq.read_table(tmp_path / name)["bytes"].to_pylist() for name in files(tmp_path)}
    assert found == {
        "date=2023-11-14/hour=22/part-221320.parquet": [0],
        "date=2023-11-14/hour=22/part-221500.parquet": [1, 2, 3],
        "date=2023-11-14/hour=22/part-222000.parquet": [4, 5],
    }


async def test_files_end_after_so_many_rows(tmp_path, clock):
    async with sink(tmp_path, clock, rotate_rows=3) as out:
        for value in range(5):
            await out.write(rows(value, value))
    found = [pq.read_table(tmp_path / name)["bytes"].to_pylist() for name in files(tmp_path)]
    assert sorted(found) == [[0, 0, 1, 1], [2, 2, 3, 3], [4, 4]]
    assert [Path(name).name for name in files(tmp_path)] == [
        "part-221320-2.parquet", "part-221320-3.parquet", "part-221320.parquet",
    ]  # fmt: skip


async def test_values_are_those_of_lines_of_json(tmp_path, clock):
    known = np.array([True, False, True])
    batch = rows(
        1, 2, 3,
        src_addr=np.array([[0, 0, 1], [0xFFFF0A000001, 0xFFFF0A000002, 2]], "u8"),
        src_mac=np.array([1, 2, 3], "u8"), export_protocol=np.array([5, 4, 5], "u1"),
        sampling_rate=np.array([100.0, 0, 0.5]), end_ns=np.array([1, 2, START]), tos=np.array([1, 2, 3], "u1"),
        src_k8s_name=np.array([b"web", b"", "ü".encode()]),
    )  # fmt: skip
    batch = Batch(batch.columns, valid={"sampling_rate": known, "src_addr": known[::-1].copy()})
    async with sink(tmp_path, clock) as out:
        await out.write(batch)
    (file,) = files(tmp_path)
    table = pq.read_table(tmp_path / file, partitioning=None)
    found = [{name: v for name, v in row.items() if v is not None} for row in table.to_pylist()]
    assert found == [json.loads(line) for line in json_lines(batch).splitlines()]
    assert {f.name: str(f.type) for f in table.schema} == {
        "export_protocol": "string", "end_ns": "int64", "src_addr": "string", "bytes": "uint64", "tos": "uint8",
        "src_mac": "string", "sampling_rate": "double", "src_k8s_name": "string",
    }  # fmt: skip


async def test_flowagent_reads_it(tmp_path, clock):
    batch = rows(
        1, 2, 3, src_addr=np.array([[0, 0, 1], [0xFFFF0A000001, 0xFFFF0A000002, 2]], "u8"),
        export_protocol=np.array([5, 4, 5], "u1"), src_mac=np.array([1, 2, 3], "u8"), weight=np.array([1.5, 2, 3]),
        end_ns=np.array([1, 2, START]),
    )  # fmt: skip
    async with sink(tmp_path, clock) as out:
        await out.write(batch)
    (file,) = files(tmp_path)
    problems = []
    (back,) = read(tmp_path / file, list(batch.columns), problems.append)
    assert not problems
    assert {n: v.tolist() for n, v in back.columns.items()} == {n: v.tolist() for n, v in batch.columns.items()}


async def test_files_are_compressed_and_texts_in_a_dictionary(tmp_path, clock):
    n = 5000
    addresses = np.stack([np.zeros(n, "u8"), np.uint64(0xFFFF0A000000) + np.arange(n, dtype="u8") % 50])
    async with sink(tmp_path, clock) as out:
        await out.write(rows(*range(n), src_addr=addresses))
    (file,) = files(tmp_path)
    column = pq.read_metadata(tmp_path / file).row_group(0).column(0)
    assert column.path_in_schema == "src_addr"
    assert column.compression == "ZSTD"
    assert "RLE_DICTIONARY" in column.encodings
    assert column.total_uncompressed_size < 6 * n


async def test_row_groups_are_bounded(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 100)
    async with sink(tmp_path, clock) as out:
        for start in (*range(0, 280, 70), 280):
            await out.write(rows(*range(start, start + (70 if start < 280 else 250))))
    (file,) = files(tmp_path)
    metadata = pq.read_metadata(tmp_path / file)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [70] * 4 + [100, 100, 50]
    monkeypatch.setattr(parquet, "GROUP_ROWS", 1 << 20)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1000)
    async with sink(tmp_path / "b", clock) as out:
        for _ in range(3):
            await out.write(rows(*range(100)))
    (file,) = files(tmp_path / "b")
    assert pq.read_metadata(tmp_path / "b" / file).num_row_groups == 3


async def test_a_new_column_begins_a_new_file_and_stays(tmp_path, clock):
    async with sink(tmp_path, clock) as out:
        await out.write(rows(1))
        await out.write(rows(2, tos=np.array([5], "u1")))
        await out.write(rows(3))
        await out.write(rows(4, some=np.array([5], "u1")))
        await out.write(rows(5, some=np.array([0.5])))
        await out.write(rows(6, some=np.array([b"x"])))
    found = [pq.read_table(tmp_path / name, partitioning=None).to_pylist() for name in files(tmp_path)]
    assert sorted(found, key=lambda table: table[0]["bytes"]) == [
        [{"bytes": 1}],
        [{"bytes": 2, "tos": 5}, {"bytes": 3, "tos": None}],
        [{"bytes": 4, "tos": None, "some": 5}],
        [{"bytes": 5, "tos": None, "some": 0.5}],
        [{"bytes": 6, "tos": None, "some": "x"}],
    ]


async def test_there_are_never_too_many_columns(tmp_path, clock, monkeypatch, caplog):
    monkeypatch.setattr(parquet, "MAX_COLUMNS", 2)
    async with sink(tmp_path, clock) as out:
        await out.write(rows(1, b=np.ones(1)))
        for name in "cd":
            await out.write(rows(2, **{name: np.ones(1)}))
    found = [row for name in files(tmp_path) for row in pq.read_table(tmp_path / name, partitioning=None).to_pylist()]
    assert found == [{"bytes": 1, "b": 1.0}, {"bytes": 2, "b": None}, {"bytes": 2, "b": None}]
    assert len(caplog.messages) <= 2


KILLED = """
import asyncio, os, sys
import numpy as np
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.export.parquet import Config

async def main():
    async with Config(path=sys.argv[1], rotate_every="365d").build(Context("pq")) as out:
        for value in range(1, 4):
            await out.write(Batch({"bytes": np.array([value] * 100, "u8")}))
        os._exit(9)

asyncio.run(main())
"""


def killed(path):
    """An agent that wrote three times a hundred rows before it was killed."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == 9


async def test_what_a_killed_agent_had_written_is_there_after_the_next_start(tmp_path, clock):
    killed(tmp_path / TEMPLATE)
    (left,) = tmp_path.rglob(".part-*.parquet.part")
    async with sink(tmp_path, clock) as out:
        await out.write(rows(4))
    assert numbers(tmp_path) == [1] * 100 + [2] * 100 + [3] * 100 + [4]
    assert left.with_name(left.name[1:].removesuffix(".part")).exists()
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("cut", [1, 100])
async def test_a_stream_that_ends_in_the_middle_of_a_message(tmp_path, clock, cut):
    killed(tmp_path / TEMPLATE)
    (left,) = tmp_path.rglob(".part-*.parquet.part")
    os.truncate(left, left.stat().st_size - cut)
    async with sink(tmp_path, clock):
        pass
    assert numbers(tmp_path) == [1] * 100 + [2] * 100


@pytest.mark.parametrize("size", [0, 10])
async def test_a_stream_without_a_whole_message_is_nothing(tmp_path, clock, size):
    killed(tmp_path / TEMPLATE)
    (left,) = tmp_path.rglob(".part-*.parquet.part")
    os.truncate(left, size)
    async with sink(tmp_path, clock):
        pass
    assert files(tmp_path) == []


async def test_killed_while_parquet_was_made_or_just_after(tmp_path, clock):
    killed(tmp_path / TEMPLATE)
    (left,) = tmp_path.rglob(".part-*.parquet.part")
    content = left.read_bytes()
    left.with_name(left.name.removesuffix(".part") + ".tmp").write_bytes(b"PAR1 half")
    for _ in range(2):
        async with sink(tmp_path, clock):
            pass
        assert numbers(tmp_path) == [1] * 100 + [2] * 100 + [3] * 100
        assert len(files(tmp_path)) == 1
        left.write_bytes(content)


async def test_the_stream_of_another_agent_is_left_alone(tmp_path, clock):
    async with sink(tmp_path, clock) as one:
        await one.write(rows(1))
        async with sink(tmp_path, clock) as other:
            await other.write(rows(2))
        await one.write(rows(3))
        assert numbers(tmp_path) == [2]
    assert numbers(tmp_path) == [1, 2, 3]


def no_room(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_full_disk_is_tried_again_and_leaves_no_half_message(tmp_path, clock, monkeypatch):
    class Full(FileIO):
        """Takes some bytes, then none."""

        room = 0

        def write(self, data):
            if self.room <= 0:
                no_room()
            count = super().write(data[: self.room])
            self.room -= count
            return count

    async with sink(tmp_path, clock) as out:
        await out.write(rows(1))
        part = out._part
        full = Full(part.raw.fileno(), "r+b", closefd=False)
        out._part = part._replace(raw=full)
        for full.room in (0, 1, 50):
            with pytest.raises(Retry, match=r"cannot write .*: No space left"):
                await out.write(rows(2))
        out._part = part
        await out.write(rows(2))
    assert numbers(tmp_path) == [1, 2]


async def test_a_full_disk_at_the_first_rows(tmp_path, clock, monkeypatch):
    put = parquet._put

    async with sink(tmp_path, clock) as out:
        monkeypatch.setattr(parquet, "_put", no_room)
        with pytest.raises(Retry):
            await out.write(rows(1))
        monkeypatch.setattr(parquet, "_put", put)
        await out.write(rows(1))
    assert numbers(tmp_path) == [1]


async def test_parquet_that_cannot_be_made_now_is_made_later(tmp_path, clock, monkeypatch, caplog):
    make = parquet._make_parquet

    async with Config(path=str(tmp_path / TEMPLATE)).build(Context("pq", clock, log=logging.getLogger("pq"))) as out:
        await out.write(rows(1))
        monkeypatch.setattr(parquet, "_make_parquet", no_room)
        clock.advance(300)
        await out.write(rows(2))
        assert "No space left" in caplog.text
        assert [Path(name).name[0] for name in files(tmp_path)] == [".", "."]
        monkeypatch.setattr(parquet, "_make_parquet", make)
        clock.advance(300)
        await out.write(rows(3))
        assert numbers(tmp_path) == [1, 2]
    assert numbers(tmp_path) == [1, 2, 3]


async def test_a_write_that_takes_too_long_goes_on(tmp_path, clock, monkeypatch):
    put = parquet._put
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(raw, data):
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result()
        put(raw, data)

    monkeypatch.setattr(parquet, "_put", slow)
    async with sink(tmp_path, clock) as out:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await out.write(rows(1))
        released.set()
        await out.write(rows(1))  # as the outlet does: the same rows again
        await out.write(rows(2))
    assert numbers(tmp_path) == [1, 2]


async def test_without_rows_there_is_no_file(tmp_path, clock):
    async with sink(tmp_path, clock) as out:
        assert await out.write(Batch({})) == 0
    assert files(tmp_path) == []


async def test_the_example_of_the_documentation_works(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (kind,) = config.parse({"export": yaml.safe_load(block)}, {"FLOWS": str(tmp_path), "NODE_NAME": "n1"}).export
    async with kind.settings.build(Context(kind.name)) as out:
        await out.write(rows(1, 2))
    assert numbers(tmp_path) == [1, 2]
    (file,) = files(tmp_path)
    assert re.fullmatch(r"date=[\d-]{10}/hour=\d\d/n1-\d{6}\.parquet", file)


def test_it_cannot_be_used_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"install flowagent\[parquet\]"):
        Config(path=str(tmp_path / TEMPLATE)).build(Context("pq"))


def test_settings_that_are_wrong(tmp_path):
    for settings, path in (
        ({"path": "flows.parquet"}, "pq.path"),
        ({"rotate_every": "0s"}, "pq.rotate_every"),
        ({"rotate_every": "often"}, "pq.rotate_every"),
    ):
        with pytest.raises(ConfigError) as raised:
            Config(**{"path": str(tmp_path / TEMPLATE), **settings}).build(Context("pq"))
        assert raised.value.path == path


async def test_a_directory_that_cannot_be_made(tmp_path, clock):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another directory"):
        await sink(tmp_path / "file", clock).__aenter__()


def test_left_streams_are_found_whatever_the_path(tmp_path):
    for path in ("a[1]/%Y/part.parquet", "%H-%M.parquet", "b/%j.x.parquet"):
        for name in ("20", "20-2"):
            final = tmp_path / re.sub("%.", name, path)
            final.parent.mkdir(parents=True, exist_ok=True)
            final.with_name(f".{final.name}.part").touch()
        assert len(parquet._left(str(tmp_path / path))) >= 2
