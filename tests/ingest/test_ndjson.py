"""Lines of JSON back into rows: what was written is read, and what is bad costs its line only."""

import gzip
import io
import itertools
import tracemalloc
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.export.encode import json_lines
from flowagent.ingest import ndjson
from flowagent.ingest.ndjson import CHUNK_ROWS, LONGEST, read
from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS, SAMPLING_SOURCES

MB = 1 << 20
GOOD = b'{"src_addr":"192.0.2.1","bytes":10}'


def rows(data, *columns):
    """The rows of these bytes as one batch, and the problems."""
    problems = []
    return Batch.concat(list(read(io.BytesIO(data), columns, problems.append))), problems


def values(data, name):
    batch, problems = rows(data, name)
    assert problems == []
    return batch[name].tolist() if name in batch else []


words = st.sampled_from([0, 1, 0xFFFF_C000_0201, 2**64 - 1]) | st.integers(0, 2**64 - 1)
DRAWN = {
    "src_addr": st.tuples(st.sampled_from([0, 1]) | words, words),
    "exporter": st.just((0, 0xFFFF_C000_0201)),
    "bytes": st.integers(0, 2**64 - 1),
    "proto": st.integers(0, 255),
    "start_ns": st.integers(-(2**63), 2**63 - 1),
    "src_mac": st.integers(0, 2**48 - 1),
    "export_protocol": st.integers(0, len(EXPORT_PROTOCOLS) - 1),
    "sampling_source": st.integers(0, len(SAMPLING_SOURCES) - 1),
    "sampling_rate": st.floats(1, 1e12),
    "weight": st.floats(allow_nan=False, allow_infinity=False),
    "forwardingStatus": st.integers(0, 2**64 - 1),
}


@st.composite
def tables(draw):
    n = draw(st.integers(1, 8))
    names = draw(st.lists(st.sampled_from(sorted(DRAWN)), unique=True, min_size=1))
    columns, valid = {}, {}
    for name in names:
        dtype = COLUMNS[name].dtype if name in COLUMNS else "u8"
        columns[name] = np.array(draw(st.lists(DRAWN[name], min_size=n, max_size=n)), dtype).T
        if draw(st.booleans()):
            valid[name] = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return Batch(columns, n, valid)


@given(tables())
def test_what_was_written_is_read(batch):
    found, problems = rows(json_lines(batch), *batch.columns)
    assert problems == []
    assert len(found) == len(batch)
    for name in batch.columns:
        known = batch.is_known(name)
        assert found.is_known(name).tolist() == known.tolist()
        if known.any():
            assert found[name].dtype == batch[name].dtype
            assert found[name][..., known].tolist() == batch[name][..., known].tolist()


def test_only_what_is_wanted_is_read():
    batch, problems = rows(GOOD + b'\n{"bytes":20,"dst_port":"no number"}\n', "bytes")
    assert problems == []
    assert batch.columns.keys() == {"bytes"}
    assert batch["bytes"].tolist() == [10, 20]


def test_rows_of_no_column_are_counted():
    assert len(rows(b"{}\n" * 7)[0]) == len(rows(b"{}\n" * 7, "bytes")[0]) == 7


def test_null_and_missing_are_unknown():
    batch, _ = rows(b'{"bytes":null}\n{}\n{"bytes":0}\n', "bytes", "packets")
    assert batch.is_known("bytes").tolist() == [False, False, True]
    assert "packets" not in batch


def test_a_last_line_without_an_end():
    assert values(b'{"bytes":1}\n{"bytes":2}', "bytes") == [1, 2]


def test_lines_may_end_as_on_windows_and_may_be_empty():
    assert values(b'{"bytes":1}\r\n\r\n  \n\n{"bytes":2}\r\n', "bytes") == [1, 2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "Input data was truncated"),
        (b"nope", "JSON is malformed"),
        (b"[1]", "Expected `object`, got `array`"),
        (b'{"bytes":"10"}', "`$.bytes`"),
        (b'{"bytes":1.5}', "`$.bytes`"),
        (b'{"bytes":-1}', "bytes: -1 is not a number from 0 to 18446744073709551615"),
        (b'{"bytes":18446744073709551616}', "bytes: 18446744073709551616 is not a number"),
        (b'{"src_addr":7}', "Expected `str | null`, got `int` - at `$.src_addr`"),
        (b'{"src_addr":"192.0.2.1.5"}', "src_addr: '192.0.2.1.5' is not an address"),
        (b'{"src_addr":"\xff"}', ""),
        (b'{"other":' + b"[" * 100_000, "recursion"),
        (b"\x00", "JSON is malformed"),
    ],
)
def test_a_bad_line_costs_itself_and_is_named(line, reason, tmp_path):
    file = tmp_path / "rows.ndjson"
    file.write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD + b"\n")
    problems = []
    (batch,) = read(file, ["bytes", "src_addr"], problems.append)
    assert batch["bytes"].tolist() == [10, 10]
    (problem,) = problems
    assert problem.startswith(f"{file}: line 3: ")
    assert reason in problem


def test_bad_lines_of_both_sorts_in_one_chunk():
    data = b'{"bytes":-1}\n{"bytes":1}\nx\n\n{"bytes":-2}\n{"bytes":2}\n'
    batch, problems = rows(data, "bytes")
    assert batch["bytes"].tolist() == [1, 2]
    assert sorted(problem.split(": ")[1] for problem in problems) == ["line 1", "line 3", "line 5"]


def test_line_numbers_go_on_in_later_chunks():
    data = b'{"bytes":1}\n' * (CHUNK_ROWS + 10) + b"x\n" + b'{"bytes":1}\n' * 5 + b'{"bytes":-1}\n'
    batch, problems = rows(data, "bytes")
    assert len(batch) == CHUNK_ROWS + 15
    assert [problem.split(": ")[1] for problem in problems] == [f"line {CHUNK_ROWS + n}" for n in (11, 17)]


def test_chunks_are_of_some_65536_rows():
    line = b'{"bytes":1,"x":"' + b"y" * 200 + b'"}\n'
    sizes = [len(batch) for batch in read(io.BytesIO(line * 150_000), ["bytes"], print)]
    assert sum(sizes) == 150_000
    assert all(CHUNK_ROWS <= size <= 1.2 * CHUNK_ROWS for size in sizes[:-1])


@given(st.integers(1, 40), st.integers(1, 5), st.booleans())
def test_wherever_blocks_end(block, chunk, compressed):
    numbers = list(range(995, 1010))
    data = b"".join(b'{"bytes":%d}\n' % n for n in numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ndjson, "_BLOCK", block)
        patch.setattr(ndjson, "_STEP", 7)
        patch.setattr(ndjson, "CHUNK_ROWS", chunk)
        # The first block must tell that it is compressed.
        assert values(zlib.compress(data, wbits=31) if compressed and block >= 4 else data, "bytes") == numbers


def gzipped(data):
    return gzip.compress(data)


def zstandarded(data):
    return zstandard.compress(data)


every_compression = pytest.mark.parametrize("compress", [gzipped, zstandarded])
MANY = b"".join(b'{"bytes":%d,"src_addr":"10.0.%d.%d"}\n' % (n, n * 7 & 255, n * 91 & 255) for n in range(20_000))


@every_compression
def test_compressed_files(compress):
    assert values(compress(MANY), "bytes") == list(range(20_000))


@every_compression
def test_compressed_files_one_after_the_other(compress):
    assert values(compress(GOOD + b"\n") + compress(GOOD[:9]) + compress(GOOD[9:]), "bytes") == [10, 10]


@every_compression
def test_of_a_file_that_was_cut_off_what_is_there_is_used(compress):
    data = compress(MANY)
    batch, problems = rows(data[: len(data) * 2 // 3], "bytes")
    assert batch["bytes"].tolist() == list(range(len(batch)))
    assert len(batch) > 1000
    assert "input: the compressed data is cut off; what is there was read" in problems
    assert len(problems) <= 2  # the other is the line that was cut


def test_a_file_that_is_being_written():
    deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
    data = deflate.compress(MANY) + deflate.flush(zlib.Z_SYNC_FLUSH)
    batch, problems = rows(data, "bytes")
    assert len(batch) == 20_000
    assert len(problems) == 1


@every_compression
def test_of_a_damaged_file_what_stands_before_is_used(compress):
    parts = [compress(MANY[i : i + 50_000]) for i in range(0, len(MANY), 50_000)]
    parts[3] = parts[3][:20] + bytes(b ^ 0x5A for b in parts[3][20:80]) + parts[3][80:]
    batch, problems = rows(b"".join(parts), "bytes")
    assert batch["bytes"].tolist()[:3000] == list(range(3000))
    assert len(batch) < 20_000
    assert any("the compressed data is damaged" in problem for problem in problems)


def test_a_line_too_long_is_a_bad_line():
    long = b'{"x":"' + b"y" * (3 * LONGEST) + b'","bytes":5}\n'
    batch, problems = rows(GOOD + b"\n" + long + GOOD + b"\n", "bytes")
    assert batch["bytes"].tolist() == [10, 10]
    assert problems == [f"input: line 2: longer than {LONGEST} bytes"]


class Zeros(io.RawIOBase):
    """As many bytes as one asks for, of a line without an end."""

    def __init__(self, size):
        self.left = size

    def read(self, size=-1):
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


@pytest.mark.parametrize("bomb", [False, True])
def test_no_file_fills_the_memory(bomb):
    source = io.BytesIO(zstandard.compress(bytes(512 * MB))) if bomb else Zeros(256 * MB)
    tracemalloc.start()
    try:
        problems = []
        assert [len(batch) for batch in read(source, ["bytes"], problems.append)] == [0]
        assert tracemalloc.get_traced_memory()[1] < 64 * MB
    finally:
        tracemalloc.stop()
    assert problems == [f"input: line 1: longer than {LONGEST} bytes"]


def test_memory_does_not_grow_with_the_file():
    lines = b"".join(b'{"bytes":%d}\n' % n for n in range(CHUNK_ROWS))

    class Endless(io.RawIOBase):
        blocks = itertools.chain.from_iterable([lines[i : i + MB] for i in range(0, len(lines), MB)] for _ in range(8))

        def read(self, size=-1):
            return next(self.blocks, b"")

    tracemalloc.start()
    try:
        total = sum(len(batch) for batch in read(Endless(), ["bytes"], print))
        assert tracemalloc.get_traced_memory()[1] < 48 * MB
    finally:
        tracemalloc.stop()
    assert total == 8 * CHUNK_ROWS


def test_nothing_in_the_file():
    for data in (b"", b"\n\n"):
        batch, problems = rows(data, "bytes")
        assert (len(batch), problems) == (0, [])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(read(tmp_path / "missing", ["bytes"], print))


def test_addresses_are_what_they_say():
    batch, _ = rows(b'{"src_addr":"192.0.2.1"}\n{"src_addr":"2001:db8:a::1"}\n', "src_addr")
    assert batch["src_addr"].T.tolist() == [list(address_words(a)) for a in ("192.0.2.1", "2001:db8:a::1")]
