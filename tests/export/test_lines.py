"""Lines of JSON: the matrix writes what msgspec writes."""

import json

import msgspec
import numpy as np
import pytest
from drawn import batches
from hypothesis import given

from flowagent.export.encode import canonical
from flowagent.export.lines import json_lines, matrix_lines
from flowagent.export.structs import structs
from flowagent.export.value import Value

COLUMNS = (
    "src_addr", "exporter", "bytes", "start_ns", "proto", "tcp_flags", "src_mac", "export_protocol", "sampling_rate",
    "interfaceName", "interfaceName_2", "ipClassOfService",
)  # fmt: skip


def reference(fields, rows):
    return msgspec.json.Encoder().encode_lines(structs(fields, rows))


@given(batches(COLUMNS))
def test_equals_the_lines_of_msgspec(drawn):
    batch, _ = drawn
    fields = list(canonical(batch).items())
    assert matrix_lines(fields, len(batch)) == reference(fields, len(batch))


@pytest.mark.parametrize("mask", range(64))
def test_commas_stand_between_what_is_known(mask):
    # Three fields, each known in one row, the other, both or neither.
    known = [np.array([mask >> 2 * i & 1, mask >> 2 * i + 1 & 1], "?") for i in range(3)]
    fields = [(name, Value("number", np.array([1, 2]), k)) for name, k in zip("abc", known, strict=True)]
    expected = [{name: row + 1 for name, k in zip("abc", known, strict=True) if k[row]} for row in range(2)]
    assert [json.loads(line) for line in matrix_lines(fields, 2).split(b"\n")[:-1]] == expected


def test_lists_of_one():
    fields = [
        ("n", Value("number", np.array([1, 2]), is_list=True)),
        ("t", Value("text", np.array([b"a", b"b"]), np.array([True, False]), is_list=True)),
    ]
    assert matrix_lines(fields, 2) == b'{"n":[1],"t":["a"]}\n{"n":[2]}\n'


def test_names_are_escaped():
    assert matrix_lines([('a"b', Value("number", np.array([1, 2])))], 2) == b'{"a\\"b":1}\n{"a\\"b":2}\n'


def test_text_that_looks_like_structure():
    fields = [("a", Value("text", np.array([b',}{":', b"x"]))), ("b", Value("text", np.array([b"\n", b"\\"])))]
    assert [json.loads(line) for line in matrix_lines(fields, 2).split(b"\n")[:-1]] == [
        {"a": ',}{":', "b": "\n"},
        {"a": "x", "b": "\\"},
    ]


def test_opaque_bytes():
    fields = [("o", Value("opaque", np.array([b"\0\xff", b"", None], object), np.array([True, True, False])))]
    assert matrix_lines(fields, 3) == b'{"o":"00ff"}\n{"o":""}\n{}\n'


@pytest.mark.parametrize("rows", [0, 1, 511, 512, 2000])
def test_few_rows_and_many_are_written_alike(rows):
    numbers = np.arange(rows, dtype="u4") * 977
    fields = [("n", Value("number", numbers)), ("f", Value("number", numbers / 7, numbers % 3 > 0))]
    assert json_lines(fields, rows) == reference(fields, rows)


def test_rows_without_fields():
    assert matrix_lines([], 2) == json_lines([], 2) == b"{}\n{}\n"
