"""Objects in messages, and their values key by key."""

from collections import Counter

from flowagent.ingest.objects import Table, read


def test_a_message_may_be_empty_or_end_with_a_newline():
    errors = Counter()
    rows, origin = read([b'{"a":1}\n', b"", b'{"a":2}'], "json", errors)
    assert rows == [{"a": 1}, {"a": 2}]
    assert origin.tolist() == [0, 2]
    assert not errors


def test_values_of_other_types_are_marked():
    table = Table([{"a": 1}, {"a": "x"}, {}, {"a": None}, {"a": True}])
    assert table.values("a", int) == [1, None, None, None, None]
    assert table.wrong.tolist() == [False, True, False, False, True]
    assert table.values("b", int) is None
    errors = Counter()
    assert table.kept(errors).tolist() == [True, False, True, True, False]
    assert errors == {"bad_value": 2}
