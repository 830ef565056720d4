"""Batch: rows as columns, some values unknown, some columns one value in the memory of one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.batch import Batch, constant, is_constant

DTYPES = ("u1", "u2", "u4", "u8", "i8")


def numbers(*values, dtype="u8"):
    return np.array(values, dtype)


def known(*values):
    return np.array(values, np.bool_)


def plain(batch, name):
    """The column as a list, None where unknown."""
    values = batch[name].T.tolist()
    return [v if k else None for v, k in zip(values, batch.is_known(name).tolist(), strict=True)]


def test_length_is_that_of_the_columns():
    assert len(Batch({"bytes": numbers(1, 2, 3)})) == 3


def test_rows_are_on_the_last_axis():
    assert len(Batch({"src_addr": np.zeros((2, 5), np.uint64)})) == 5


def test_without_columns_it_is_empty():
    assert len(Batch({})) == 0
    assert not Batch({})


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="column packets: 2 rows, not 3"):
        Batch({"bytes": numbers(1, 2, 3), "packets": numbers(1, 2)})


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match="column bytes: 1 rows, not 3"):
        Batch({"bytes": numbers(1, 2, 3)}, valid={"bytes": known(True)})


def test_the_givers_dict_is_not_kept():
    columns = {"bytes": numbers(1)}
    batch = Batch(columns)
    columns["packets"] = numbers(1, 2)
    assert "packets" not in batch


def test_repr_names_the_columns():
    assert repr(Batch({"bytes": numbers(1), "proto": numbers(6)})) == "Batch(1 rows: bytes, proto)"


def test_take_by_position_repeats_and_reorders():
    batch = Batch({"bytes": numbers(10, 20, 30)}, valid={"bytes": known(True, False, True)}).take(np.array([2, 1, 2]))
    assert plain(batch, "bytes") == [30, None, 30]


def test_take_by_mask():
    assert Batch({"bytes": numbers(10, 20, 30)}).take(known(True, False, True))["bytes"].tolist() == [10, 30]


def test_take_of_everything_is_the_batch_itself():
    batch = Batch({"bytes": numbers(1, 2)})
    assert batch.take(known(True, True)) is batch


def test_take_of_nothing_keeps_the_columns():
    batch = Batch({"bytes": numbers(1, 2), "src_addr": np.zeros((2, 2), np.uint64)}).take(np.zeros(0, np.intp))
    assert len(batch) == 0
    assert batch["src_addr"].shape == (2, 0)


def test_take_from_an_empty_batch():
    assert len(Batch({"bytes": numbers()}).take(np.zeros(0, np.bool_))) == 0


def test_take_keeps_a_constant_constant():
    batch = Batch({"proto": constant(6, 4, "u1"), "exporter": constant((1, 2), 4, "u8")}).take(np.array([3, 0]))
    assert is_constant(batch["proto"])
    assert batch["exporter"].tolist() == [[1, 1], [2, 2]]


def test_rows_are_views():
    values = numbers(1, 2, 3, 4)
    part = Batch({"bytes": values}, valid={"bytes": known(True, False, True, True)}).rows(1, 3)
    assert plain(part, "bytes") == [None, 3]
    assert np.shares_memory(part["bytes"], values)


def test_with_columns_adds_and_replaces():
    batch = Batch({"bytes": numbers(1)}).with_columns({"bytes": numbers(2), "proto": numbers(6)})
    assert (batch["bytes"].tolist(), batch["proto"].tolist()) == ([2], [6])


def test_a_replaced_column_loses_its_old_validity():
    batch = Batch({"bytes": numbers(1, 2)}, valid={"bytes": known(False, True)})
    assert plain(batch.with_columns({"bytes": numbers(7, 8)}), "bytes") == [7, 8]
    assert plain(batch.with_columns({"proto": numbers(6, 6)}), "bytes") == [None, 2]


def test_select_takes_what_is_there():
    batch = Batch({"bytes": numbers(1), "proto": numbers(6)}, valid={"proto": known(False), "bytes": known(True)})
    chosen = batch.select(("proto", "tos"))
    assert list(chosen.columns) == ["proto"]
    assert list(chosen.valid) == ["proto"]
    assert len(batch.select(())) == 1


def test_a_missing_column_is_known_nowhere():
    assert Batch({"bytes": numbers(1, 2)}).is_known("proto").tolist() == [False, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_total_of_every_integer_type(dtype):
    top = np.iinfo(dtype).max
    assert Batch({"x": np.array([top, top, 1], dtype)}).total("x") == 2 * int(top) + 1


@given(values=st.lists(st.integers(0, 2**64 - 1), max_size=20), data=st.data())
def test_total_is_exact_and_skips_the_unknown(values, data):
    mask = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    batch = Batch({"bytes": numbers(*values)}, valid={"bytes": known(*mask)})
    assert batch.total("bytes") == sum(v for v, k in zip(values, mask, strict=True) if k)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_total_of_signed_numbers(values):
    assert Batch({"x": numbers(*values, dtype="i8")}).total("x") == sum(values)


def test_total_of_a_constant_does_not_wrap():
    assert Batch({"bytes": constant(2**64 - 1, 3, "u8")}).total("bytes") == 3 * (2**64 - 1)


def test_total_of_a_missing_column_is_zero():
    assert Batch({"proto": numbers(6)}).total("bytes") == 0


def test_record_count_is_the_sum_of_records_or_the_rows():
    assert Batch({"records": numbers(3, 4)}).record_count == 7
    assert Batch({"bytes": numbers(3, 4)}).record_count == 2


def test_concat_fills_missing_columns_with_unknown():
    batch = Batch.concat([Batch({"bytes": numbers(1), "proto": numbers(6, dtype="u1")}), Batch({"bytes": numbers(2)})])
    assert plain(batch, "bytes") == [1, 2]
    assert plain(batch, "proto") == [6, None]
    assert batch["proto"].dtype == np.uint8
    assert "bytes" not in batch.valid


def test_concat_of_addresses():
    first = Batch({"src_addr": np.array([[1], [2]], np.uint64)})
    second = Batch({"src_addr": np.array([[3, 5], [4, 6]], np.uint64)})
    assert plain(Batch.concat([first, Batch({"bytes": numbers(9)}), second]), "src_addr") == [
        [1, 2],
        None,
        [3, 4],
        [5, 6],
    ]


def test_concat_of_nothing_is_empty():
    assert len(Batch.concat([])) == 0
    assert len(Batch.concat([Batch({}), Batch({"bytes": numbers()})])) == 0


def test_concat_of_one_is_that_one():
    batch = Batch({"bytes": numbers(1)})
    assert Batch.concat([Batch({}), batch]) is batch


def test_concat_of_equal_constants_stays_constant():
    batch = Batch.concat([Batch({"proto": constant(6, 2, "u1")}), Batch({"proto": constant(6, 3, "u1")})])
    assert is_constant(batch["proto"])
    assert batch["proto"].tolist() == [6] * 5


def test_concat_of_differing_constants():
    parts = [Batch({"exporter": constant((0, i), 2, "u8")}) for i in (1, 2)]
    assert plain(Batch.concat(parts), "exporter") == [[0, 1], [0, 1], [0, 2], [0, 2]]


rows = st.fixed_dictionaries({}, optional={n: st.none() | st.integers(0, 255) for n in ("proto", "tos", "ttl")})


@given(st.lists(st.lists(rows, max_size=5), max_size=5))
def test_concat_equals_lists_put_together(parts):
    batches = []
    for part in parts:
        names = sorted({name for row in part for name in row})
        batches.append(
            Batch(
                {n: np.array([row.get(n) or 0 for row in part], "u1") for n in names},
                len(part),
                {n: np.array([row.get(n) is not None for row in part]) for n in names},
            )
        )
    whole = Batch.concat(batches)
    flat = [row for part in parts for row in part]
    assert len(whole) == len(flat)
    for name in ("proto", "tos", "ttl"):
        expected = [row.get(name) for row in flat]
        assert (plain(whole, name) if name in whole else [None] * len(flat)) == expected


def test_is_constant_looks_at_the_stride():
    assert is_constant(constant(5, 3, "u4"))
    assert not is_constant(numbers(5, 5, 5))
    assert not is_constant(numbers())


def test_a_constant_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        constant(5, 3, "u4")[0] = 1


def test_memo_computes_once():
    batch = Batch({"bytes": np.arange(3)})
    calls = []
    for _ in range(2):
        assert batch.memo("sum", lambda: calls.append(1) or int(batch["bytes"].sum())) == 3
    assert calls == [1]
    assert batch.memo(("other", 1), lambda: None) is None
    assert batch.take(np.array([0])).memo("sum", lambda: 0) == 0
