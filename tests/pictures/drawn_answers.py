"""Answers of the history for the tests of pictures: made up by hypothesis, and a small one by hand."""

from hypothesis import strategies as st

from flowagent.shown import Answer, Dimension, History, Row, Total, Value

NOW = 1_760_000_000.0
COLUMNS = ("src_k8s_namespace", "dst_k8s_namespace", "proto", "dst_port")


def answer(dimensions, rows, times=None, **more):
    """From labels of each dimension and rows of (at, value, error[, series])."""
    made = [
        Dimension(column, "", [Value(label, unknown=label == "unknown", other=label == "Other") for label in labels])
        for column, labels in zip(COLUMNS, dimensions, strict=False)
    ]
    told = [Row(list(at), float(value), float(error), *more_) for at, value, error, *more_ in rows]
    total = Total(sum(row.value for row in told), sum(row.error**2 for row in told) ** 0.5)
    step = 10.0 if times else None
    return Answer(NOW - 60, NOW, "bytes", "bytes", False, made, told, total, times, step,
                  history=History(NOW - 60, NOW, 6, 10, 10.0), **more)  # fmt: skip


def small():
    """Two namespaces in a cycle, one that talks to itself, unknown and Other."""
    labels = ["shop", "data", "unknown", "Other"]
    return answer(
        [labels, labels],
        [((0, 1), 60e6, 6e6), ((1, 0), 30e6, 0), ((0, 0), 5e6, 0), ((2, 0), 2e6, 1e6), ((3, 3), 3e6, 1e5)],
    )


@st.composite
def answers(draw, least=1, most=4):
    """Any answer: values from 0 to very many, rows of the same values, labels of any text."""
    count = draw(st.integers(least, most))
    label = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(["unknown", "Other"])
    dimensions = [draw(st.lists(label, min_size=1, max_size=7, unique=True)) for _ in range(count)]
    at = st.tuples(*(st.integers(0, len(labels) - 1) for labels in dimensions))
    value = st.integers(0, 10**15) | st.integers(0, 10)
    rows = draw(st.lists(st.tuples(at, value, st.integers(0, 10**6)), max_size=15, unique_by=lambda row: row[0]))
    return answer(dimensions, rows)
