"""Messages side by side."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.export.matrix import Marked, Matrix, Packed, first_bytes, pack

ROWS = 3


def rows_of(data, count=ROWS):
    width = len(data) // count
    return [bytes(data[i * width : (i + 1) * width]) for i in range(count)]


def test_constants_and_columns_stand_in_their_order():
    matrix = Matrix(ROWS)
    matrix.constant(b"<")
    matrix.column(np.array([b"a", b"bc", b""], "S2"))
    matrix.constant(b"|")
    matrix.column(np.array([1, 2, 0x0102], "<u2"))
    matrix.column(np.array([b"same"]))
    assert matrix.width == 10
    assert rows_of(matrix.build()) == [b"<a\0|\1\0same", b"<bc|\2\0same", b"<\0\0|\2\1same"]


def test_erased_spans_are_nul_in_their_rows():
    matrix = Matrix(ROWS)
    matrix.constant(b"ab")
    start = matrix.width
    matrix.column(np.array([b"x", b"y", b"z"]))
    matrix.constant(b",")
    matrix.erase(start, np.array([False, True, False]))
    matrix.constant(b"c")
    assert rows_of(matrix.build()) == [b"abx,c", b"ab\0\0c", b"abz,c"]


def test_one_row():
    matrix = Matrix(1)
    matrix.constant(b"a")
    matrix.column(np.array([b"b"]))
    matrix.erase(1, np.array([True]))
    assert bytes(matrix.build()) == b"a\0"


def test_no_rows():
    matrix = Matrix(0)
    matrix.constant(b"a")
    assert matrix.build() == b""


def test_only_used_bytes_are_packed():
    matrix = Marked(ROWS)
    matrix.constant(b"a")
    start = matrix.width
    matrix.column(np.array([0x0201, 0x0403, 0x0605], "<u2"), np.array([0x0001, 0x0101, 0x0100], "<u2"))
    matrix.constant(b"b")
    matrix.column(np.array([b"x", b"y", b"z"]))
    matrix.erase(start, np.array([False, False, True]))
    data, used, lengths = matrix.build()
    assert lengths.tolist() == [4, 5, 1]
    assert pack(data, used) == b"a\1bx" + b"a\3\4by" + b"a"


def test_nul_is_a_byte_like_any_other():
    matrix = Marked(2)
    matrix.column(np.array([0, 255], "u1"))
    data, used, _ = matrix.build()
    assert pack(data, used) == b"\0\xff"


def test_messages_one_by_one():
    assert Packed(b"1a2bb0", np.array([1, 3, 6]), np.array([2, 5, 6])).messages() == [b"a", b"bb", b""]


@pytest.mark.parametrize("width", [1, 7, 256, 257, 3000])
@given(st.data())
def test_first_bytes(width, data):
    lengths = data.draw(st.lists(st.integers(0, width), min_size=1, max_size=5))
    marks = first_bytes(np.array(lengths), width)
    assert marks.dtype.itemsize == width
    assert [list(mark.tobytes()) for mark in marks] == [[1] * n + [0] * (width - n) for n in lengths]
