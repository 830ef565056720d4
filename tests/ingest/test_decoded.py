"""What every decoder of rows adds: records, and how the sampling rate is known."""

from collections import Counter

import numpy as np

from flowagent.batch import Batch
from flowagent.ingest.decoded import finish


def finished(columns, valid=None, *, is_weighted=False):
    errors = Counter()
    batch = Batch(columns, valid=valid)
    return finish(batch, np.arange(len(batch)), errors, is_weighted=is_weighted)


def test_each_row_tells_its_records():
    assert finished({"bytes": np.array([1, 2], "u8")}).batch["records"].tolist() == [1, 1]
    known = {"records": np.array([True, False])}
    found = finished({"bytes": np.array([1, 2], "u8"), "records": np.array([5, 0], "u8")}, known)
    assert found.batch["records"].tolist() == [5, 1]
    assert found.batch.record_count == 6


def test_an_unknown_rate_is_not_taken_for_one():
    both = finished(
        {"bytes": np.array([1, 2], "u8"), "sampling_rate": np.array([10.0, 0.0])},
        {"sampling_rate": np.array([True, False])},
    )
    assert both.batch["sampling_source"].tolist() == [1, 0]


def test_what_rows_say_of_their_rate_counts():
    batch = finished({"sampling_source": np.array([3], "u1")}).batch
    assert batch["sampling_source"].tolist() == [3]


def test_a_row_of_which_nothing_is_known_is_none():
    found = finished({"bytes": np.array([1, 0], "u8")}, {"bytes": np.array([True, False])})
    assert found.errors == {"no_fields": 1}
    assert found.origin.tolist() == [0]
