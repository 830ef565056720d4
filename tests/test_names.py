"""Names as numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent import names
from flowagent.batch import Batch
from flowagent.export.encode import json_lines
from flowagent.filters import parse_filter


@given(st.lists(st.text(max_size=40).filter(lambda t: "\0" not in t)))
def test_names_come_back(texts: list[str]) -> None:
    back = names.texts(names.codes(texts))
    assert [t.decode() for t in back.tolist()] == [t.encode("utf-8", "replace").decode() for t in texts]


def test_no_name_is_zero_and_an_unknown_code_has_no_text() -> None:
    assert names.code("") == 0
    assert names.text(0) == ""
    assert names.text(12345) == ""


def test_a_code_is_the_same_on_every_machine() -> None:
    assert names.code("kube-system") == 0x5D97319747EA01D2


def test_a_text_that_is_too_long_is_cut_at_a_character() -> None:
    long = "é" * 200
    assert names.text(names.code(long)) == "é" * 126
    assert names.code(long) == names.code("é" * 126)


def test_memory_is_bounded_and_used_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_codes", {})
    monkeypatch.setattr(names, "_texts", type(names._texts)())
    monkeypatch.setattr(names, "MAX_NAMES", 3)
    kept = names.code("kept")
    for i in range(10):
        names.code(f"name {i}")
        names.code("kept")
    assert len(names._texts) == len(names._codes) == 3
    assert names.text(kept) == "kept"


def test_rows_that_leave_have_texts_and_no_empty_columns() -> None:
    batch = Batch(
        {
            "src_k8s_name": names.codes(["web", "", "web"]),
            "dst_k8s_name": names.codes(["", "", ""]),
            "bytes": np.arange(3, dtype=np.uint64),
        }
    )
    rows = names.spelled(batch)
    assert rows["src_k8s_name"].tolist() == [b"web", b"", b"web"]
    assert rows.is_known("src_k8s_name").tolist() == [True, False, True]
    assert sorted(rows.columns) == ["bytes", "src_k8s_name"]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("src_k8s_namespace == kube-system", [0]),
        ("src_k8s_namespace != kube-system", [1, 2]),
        ("src_k8s_namespace in {kube-system, shop}", [0, 1]),
        ("src_k8s_namespace is known", [0, 1]),
        ("src_k8s_namespace is unknown", [2]),
    ],
)
def test_filters_compare_names(text: str, rows: list[int]) -> None:
    batch = Batch({"src_k8s_namespace": names.codes(["kube-system", "shop", ""])})
    assert np.flatnonzero(parse_filter(text, "x")(batch)).tolist() == rows


def test_rows_without_a_name_do_not_mention_it() -> None:
    batch = Batch({"src_k8s_name": names.codes(["web", ""]), "bytes": np.arange(2, dtype=np.uint64)})
    for rows in (batch, names.spelled(batch)):
        assert json_lines(rows).splitlines() == [b'{"bytes":0,"src_k8s_name":"web"}', b'{"bytes":1}']


def test_what_is_only_looked_for_pushes_out_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_codes", {})
    monkeypatch.setattr(names, "_texts", type(names._texts)())
    monkeypatch.setattr(names, "MAX_NAMES", 2)
    rows = Batch({"src_k8s_name": names.codes(["web", "db"])})
    for i in range(10):
        assert not parse_filter(f'src_k8s_name == "asked {i}"', "filter")(rows).any()
    assert names.texts(rows["src_k8s_name"]).tolist() == [b"web", b"db"]
    assert parse_filter("src_k8s_name == web", "filter")(rows).tolist() == [True, False]


@given(st.text(max_size=300))
def test_what_is_looked_for_has_the_number_of_the_name(text: str) -> None:
    assert names.hashed(text) == names.code(text)
