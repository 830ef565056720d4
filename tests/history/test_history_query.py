"""Questions: what their parameters say, and what is refused with which reason."""

import pytest
from history.flows import filled
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent.errors import ConfigError
from flowagent.history.query import PARAMETERS, Moment, Query


def refused(**parameters):
    with pytest.raises(ConfigError) as caught:
        Query.parse({name.rstrip("_"): value for name, value in parameters.items()})
    return caught.value


def test_nothing_asks_for_the_bytes_of_the_last_five_minutes():
    query = Query.parse({})
    assert (query.since, query.until) == (Moment(-300.0), Moment(0.0))
    assert (query.measure, query.dimensions, query.top, query.fold, query.step, query.where) == (
        "bytes", (), 20, "dimension", None, None
    )  # fmt: skip


def test_equal_questions_are_equal():
    asked = {"dimensions": "src_addr, dst_port", "filter": "proto == tcp", "from": "-1h", "step": "60s"}
    assert Query.parse(asked) == Query.parse(asked)
    assert len({Query.parse(asked), Query.parse(asked), Query.parse({})}) == 2


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", Moment(0.0)), ("-15m", Moment(-900.0)), ("- 2 h", Moment(-7200.0)), ("-90", Moment(-90.0)),
        ("1760000000.5", Moment(1760000000.5, is_relative=False)), ("0", Moment(0.0, is_relative=False)),
    ],
)  # fmt: skip
def test_times(text, moment):
    assert Moment.parse(text, "from") == moment


@pytest.mark.parametrize("text", ["", "yesterday", "15m", "nan", "inf", "1e300", "--5m", "-5 parsecs", "-9999d"])
def test_what_is_no_time(text):
    assert refused(from_=text).path == "from"


@pytest.mark.parametrize(
    ("parameters", "path", "problem"),
    [
        ({"form": "-5m"}, "form", "is no parameter; did you mean from?"),
        ({"measure": "byte"}, "measure", "'byte' is none; did you mean bytes?"),
        ({"fold": "rows"}, "fold", "neither dimension nor row"),
        ({"top": "0"}, "top", "from 1 to 2000"),
        ({"top": "2001"}, "top", "from 1 to 2000"),
        ({"top": "ten"}, "top", "from 1 to 2000"),
        ({"top": "1e3"}, "top", "from 1 to 2000"),
        ({"step": "0.5"}, "step", "too short"),
        ({"step": "soon"}, "step", "is not a duration"),
        ({"dimensions": "a,b,c,d,e"}, "dimensions", "are 5; at most 4"),
        ({"dimensions": "a,a"}, "dimensions", "twice"),
        ({"from_": "-5m", "to": "-6m"}, "from", "is not before to"),
        ({"from_": "20", "to": "20"}, "from", "is not before to"),
        ({"from_": "-1h", "step": "1s"}, "step", "makes 3600 steps; at most 2000"),
        ({"from_": "-30m", "step": "1s", "top": "200", "fold": "row", "dimensions": "proto"}, "step", "200000 numbers"),
        ({"filter": "src_prt == 1"}, "filter", "did you mean src_port?"),
        ({"filter": "x" * 5000}, "filter", "at most 4096 characters"),
    ],
)
def test_what_is_refused(parameters, path, problem):
    error = refused(**parameters)
    assert error.path == path
    assert problem in error.problem


@pytest.mark.parametrize(
    ("parameters", "path", "problem"),
    [
        ({"dimensions": "src_port,vlan"}, "dimensions", "'vlan' is not a column of the history"),
        ({"dimensions": "port"}, "dimensions", "stands for src_port and dst_port"),
        ({"dimensions": "bytes"}, "dimensions", "is not a column of the history"),
        ({"dimensions": "src_port,"}, "dimensions", "'' is not a column"),
        ({"filter": "bytes > 10k"}, "filter", "'bytes' is not a column of the history"),
        ({"measure": "dropped_bytes"}, "measure", "add it to window.measures"),
    ],
)
def test_what_the_history_has_not(parameters, path, problem):
    view = filled([]).view()
    with pytest.raises(ConfigError) as caught:
        Query.parse(parameters).check(view)
    assert caught.value.path == path
    assert problem in caught.value.problem


def reason(parameters):
    """Why these are no question; None where they are one."""
    try:
        query = Query.parse(parameters)
        query.check(filled([]).view())
    except ConfigError as error:
        return error
    assert hash(query) == hash(Query.parse(parameters))
    return None


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(PARAMETERS), st.text(max_size=30), max_size=4))
def test_any_text_is_a_question_or_a_reason(parameters):
    error = reason(parameters)
    assert error is None or (error.path in PARAMETERS and error.problem)
