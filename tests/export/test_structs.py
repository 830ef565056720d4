"""Rows as structs."""

import msgspec
import numpy as np

from flowagent.export.structs import structs
from flowagent.export.value import Value


def test_a_row_has_its_known_fields_in_their_order():
    fields = [
        ("b", Value("number", np.array([1, 2], "u8"))),
        ("a b", Value("text", np.array([b"x", b"y"]), np.array([True, False]))),
    ]
    assert list(map(msgspec.json.encode, structs(fields, 2))) == [b'{"b":1,"a b":"x"}', b'{"b":2}']


def test_rows_without_fields():
    assert list(map(msgspec.json.encode, structs([], 2))) == [b"{}", b"{}"]
