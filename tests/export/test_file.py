"""The file sink: rows reach the file whole, files with a final name are complete, a full disk is not the end."""

import asyncio
import gzip
import json
import os
import re
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
import zstandard

from flowagent.batch import Batch
from flowagent.clock import SECOND, ManualClock
from flowagent.component import Context
from flowagent.config import parse
from flowagent.errors import ConfigError, Retry
from flowagent.export.file import Config

START = 1_700_000_000 * SECOND  # 2023-11-14T22:13:20Z


@pytest.fixture
def clock():
    return ManualClock(START)


def sink(path, clock, **settings):
    return Config(path=str(path), **settings).build(Context("out", clock))


def rows(*values):
    return Batch({"bytes": np.array(values, "u8")})


def numbers(text):
    return [json.loads(line)["bytes"] for line in text.splitlines()]


def names(directory):
    return sorted(p.name for p in directory.iterdir())


async def test_rows_become_lines(tmp_path, clock):
    async with sink(tmp_path / "flows.ndjson", clock) as out:
        assert await out.write(rows(1, 2)) == len('{"bytes":1}\n{"bytes":2}\n')
        # What was written can be read at once.
        assert (tmp_path / "flows.ndjson").read_text() == '{"bytes":1}\n{"bytes":2}\n'
        await out.write(rows(3))
    assert numbers((tmp_path / "flows.ndjson").read_text()) == [1, 2, 3]


async def test_a_file_that_is_not_rotated_is_appended_to(tmp_path, clock):
    for value in (1, 2):
        async with sink(tmp_path / "flows.ndjson", clock) as out:
            await out.write(rows(value))
    assert numbers((tmp_path / "flows.ndjson").read_text()) == [1, 2]


async def test_without_rows_there_is_no_file(tmp_path, clock):
    async with sink(tmp_path / "flows.ndjson", clock):
        pass
    assert names(tmp_path) == []


async def test_directories_are_made(tmp_path, clock):
    async with sink(tmp_path / "a" / "b" / "flows.ndjson", clock) as out:
        await out.write(rows(1))
    assert (tmp_path / "a" / "b" / "flows.ndjson").exists()


async def test_the_path_may_hold_the_time_in_utc(tmp_path, clock):
    async with sink(tmp_path / "%Y-%m-%dT%H%M%S.ndjson", clock) as out:
        await out.write(rows(1))
    assert names(tmp_path) == ["2023-11-14T221320.ndjson"]


async def test_rotation_by_time(tmp_path, clock):
    async with sink(tmp_path / "%H%M.ndjson", clock, rotate_every="1m") as out:
        await out.write(rows(1))
        clock.advance(59.9)
        await out.write(rows(2))
        clock.advance(0.1)
        await out.write(rows(3))
    assert names(tmp_path) == ["2213.ndjson", "2214.ndjson"]
    assert numbers((tmp_path / "2213.ndjson").read_text()) == [1, 2]
    assert numbers((tmp_path / "2214.ndjson").read_text()) == [3]


async def test_rotation_by_size(tmp_path, clock):
    async with sink(tmp_path / "%S.ndjson", clock, rotate_size=24) as out:
        for value in range(5):
            await out.write(rows(value))
    # Each line takes 12 bytes; names that are taken get a number.
    assert names(tmp_path) == ["20-2.ndjson", "20-3.ndjson", "20.ndjson"]
    files = [numbers((tmp_path / name).read_text()) for name in ("20.ndjson", "20-2.ndjson", "20-3.ndjson")]
    assert files == [[0, 1], [2, 3], [4]]


async def test_a_file_has_its_final_name_only_when_it_is_complete(tmp_path, clock):
    async with sink(tmp_path / "%S.ndjson.gz", clock, rotate_every=60) as out:
        await out.write(rows(1))
        assert names(tmp_path) == ["20.ndjson.gz.part"]
        clock.advance(60)
        await out.write(rows(2))
        assert names(tmp_path) == ["20-2.ndjson.gz.part", "20.ndjson.gz"]
        assert numbers(gzip.decompress((tmp_path / "20.ndjson.gz").read_bytes())) == [1]
    assert names(tmp_path) == ["20-2.ndjson.gz", "20.ndjson.gz"]


async def test_what_a_crash_left_behind_is_not_overwritten(tmp_path, clock):
    (tmp_path / "2213.ndjson.part").write_text('{"bytes":7}\n')
    (tmp_path / "2213-2.ndjson").write_text('{"bytes":8}\n')
    async with sink(tmp_path / "%H%M.ndjson", clock, rotate_every="1h") as out:
        await out.write(rows(1))
    kept = {name: numbers((tmp_path / name).read_text()) for name in names(tmp_path)}
    assert kept == {"2213.ndjson.part": [7], "2213-2.ndjson": [8], "2213-3.ndjson": [1]}


async def test_keep_removes_the_oldest(tmp_path, clock):
    async with sink(tmp_path / "%H%M.ndjson", clock, rotate_every=60, keep=2) as out:
        for value in range(5):
            await out.write(rows(value))
            clock.advance(60)
        # Two beside the current one.
        assert names(tmp_path) == ["2215.ndjson", "2216.ndjson", "2217.ndjson.part"]
    assert names(tmp_path) == ["2216.ndjson", "2217.ndjson"]


async def test_keep_leaves_strangers_alone(tmp_path, clock):
    (tmp_path / "0000.ndjson").write_text("mine")
    async with sink(tmp_path / "%H%M.ndjson", clock, rotate_every=60, keep=1) as out:
        for value in range(3):
            await out.write(rows(value))
            clock.advance(60)
    assert names(tmp_path) == ["0000.ndjson", "2215.ndjson"]


def read_gzip(path):
    return gzip.decompress(path.read_bytes())


def read_zstd(path):
    with zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True) as reader:
        return reader.read()


@pytest.mark.parametrize(
    ("name", "settings", "read"),
    [
        ("flows.ndjson.gz", {}, read_gzip),
        ("flows.ndjson.zst", {}, read_zstd),
        ("flows", {"compression": "gzip"}, read_gzip),
        ("flows", {"compression": "zstd"}, read_zstd),
        ("flows.gz", {"compression": "none"}, lambda path: path.read_bytes()),
    ],
)
async def test_compression(tmp_path, clock, name, settings, read):
    # Opened twice: the second run's rows come after those of the first.
    for values in ([1, 2], [3]):
        async with sink(tmp_path / name, clock, **settings) as out:
            for value in values:
                await out.write(rows(value))
    assert numbers(read(tmp_path / name)) == [1, 2, 3]


@pytest.mark.parametrize("name", ["x.ndjson.gz", "x.ndjson.zst"])
async def test_rows_in_a_compressed_file_are_on_disk_at_once(tmp_path, clock, name):
    async with sink(tmp_path / name, clock) as out:
        await out.write(rows(1, 2))
        data = (tmp_path / name).read_bytes()
        codec = zlib.decompressobj(31) if name.endswith("gz") else zstandard.ZstdDecompressor().decompressobj()
        assert numbers(codec.decompress(data)) == [1, 2]


def test_stdout_gets_data_only():
    program = """
import asyncio, numpy as np
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.export.file import Config
async def main():
    async with Config(path="-").build(Context("out")) as sink:
        await sink.write(Batch({"bytes": np.array([1, 2], "u8")}))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert numbers(done.stdout) == [1, 2]
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"path": "-", "rotate_every": "1m"}, "out.path: stdout can neither be rotated nor compressed; name a file"),
        ({"path": "-", "compression": "gzip"}, "out.path: stdout can neither be rotated nor compressed; name a file"),
        ({"path": "x", "keep": 3}, "out.keep: needs rotate_every or rotate_size"),
        ({"path": "x", "rotate_size": "1MB"}, "out.path: needs strftime fields such as %Y%m%dT%H%M%S"),
        ({"path": "%S", "rotate_every": "soon"}, "out.rotate_every: 'soon' is not a duration; write a number"),
        ({"path": "%S", "rotate_size": "big"}, "out.rotate_size: 'big' is not a size; write bytes"),
    ],
)
def test_settings_that_make_no_sense(settings, text):
    with pytest.raises(ConfigError, match="^" + re.escape(text)):
        Config(**settings).build(Context("out"))


async def test_a_directory_that_cannot_be_made(tmp_path, clock):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^out.path: cannot write in .*/file/dir: .*; choose another directory"):
        await sink(tmp_path / "file" / "dir" / "x", clock).__aenter__()


async def test_a_directory_that_cannot_be_written_to(tmp_path, clock, monkeypatch):
    # Permissions do not stop root, so the question whether one may write is answered here.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"cannot write in .*: permission denied; choose another directory"):
        await sink(tmp_path / "x", clock).__aenter__()


async def test_a_full_disk_asks_for_a_retry(clock):
    async with sink("/dev/full", clock) as out:
        for _ in range(2):
            with pytest.raises(Retry, match="cannot write /dev/full: No space left on device"):
                await out.write(rows(1))


async def test_a_full_disk_stops_neither_rotation_nor_the_end(tmp_path, clock, caplog):
    (tmp_path / "20.ndjson.part").symlink_to("/dev/full")
    (tmp_path / "20.ndjson").symlink_to("/dev/full")
    async with sink(tmp_path / "%S.ndjson", clock, rotate_every=60) as out:
        await out.write(rows(1))
    assert numbers((tmp_path / "20-2.ndjson").read_text()) == [1]
    async with sink("/dev/full", clock, compression="gzip") as out:
        with pytest.raises(Retry):
            await out.write(rows(1))


@pytest.fixture
def small_files():
    """Files may not grow beyond 1000 bytes while the returned object holds; `release` lifts that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Limit:
        def hold(self):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

        def release(self):
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    limit = Limit()
    yield limit
    limit.release()


@pytest.mark.parametrize("name", ["flows.ndjson", "%S.ndjson"])
async def test_when_there_is_room_again_no_line_is_torn(tmp_path, clock, small_files, name):
    values = list(range(10_000, 11_000))
    async with sink(tmp_path / name, clock, rotate_every=3600 if "%" in name else 0) as out:
        await out.write(rows(1))
        small_files.hold()
        with pytest.raises(Retry):
            await out.write(rows(*values))
        small_files.release()
        await out.write(rows(*values))
    (path,) = tmp_path.iterdir()
    found = numbers(path.read_text())
    assert found[0] == 1
    assert found[-1000:] == values


@pytest.mark.parametrize(("name", "read"), [("flows.ndjson.gz", read_gzip), ("flows.ndjson.zst", read_zstd)])
async def test_when_there_is_room_again_a_compressed_file_can_be_read(tmp_path, clock, small_files, name, read):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2**63, 1000).tolist()
    async with sink(tmp_path / name, clock) as out:
        await out.write(rows(1))
        small_files.hold()
        with pytest.raises(Retry):
            await out.write(rows(*values))
        small_files.release()
        await out.write(rows(*values))
    found = [n for path in sorted(tmp_path.iterdir()) for n in numbers(read(path))]
    assert found[0] == 1
    assert found[-1000:] == values


@pytest.mark.parametrize(("name", "read"), [("flows.ndjson.gz", read_gzip), ("flows.ndjson.zst", read_zstd)])
async def test_a_compressed_file_that_ends_after_a_failure_can_be_read(tmp_path, clock, small_files, name, read):
    values = np.random.default_rng(1).integers(0, 2**63, 1000).tolist()
    async with sink(tmp_path / name, clock) as out:
        await out.write(rows(1))
        small_files.hold()
        with pytest.raises(Retry):
            await out.write(rows(*values))
        small_files.release()
    assert numbers(read(tmp_path / name))[0] == 1


async def test_a_reader_of_stdout_that_stops_reading_holds_nobody_up(monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as stdout, os.fdopen(reader, "rb", buffering=0) as other_side:
        monkeypatch.setattr(sys, "stdout", type("Stdout", (), {"buffer": stdout}))
        batch = rows(*range(20_000))  # more than a pipe holds
        async with Config(path="-").build(Context("out")) as sink:
            # Tried again, the rows are not written twice.
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await sink.write(batch)
            read = b""
            length = asyncio.get_running_loop().create_task(sink.write(batch))
            while read.count(b"\n") < len(batch):
                read += await asyncio.to_thread(other_side.read, 65536)
            assert await length == len(read)
    assert numbers(read) == list(range(20_000))


async def test_the_example_of_the_documentation_works(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "sinks" / "file.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (kind,) = parse({"export": yaml.safe_load(block)}, {"DIRECTORY": str(tmp_path)}).export
    async with kind.settings.build(Context(kind.name, ManualClock(START))) as out:
        await out.write(rows(1, 2))
    assert names(tmp_path) == ["flows-20231114T221320.ndjson.zst"]
    written = zstandard.ZstdDecompressor().stream_reader((tmp_path / names(tmp_path)[0]).read_bytes()).read()
    assert numbers(written) == [1, 2]
