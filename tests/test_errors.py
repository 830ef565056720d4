"""The errors that cross a component's border."""

import pytest

from flowagent import errors
from flowagent.errors import ConfigError, DecodeError, FlowagentError, Rejected, Retry


def test_all_have_one_base():
    found = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)}
    assert found == {FlowagentError, ConfigError, DecodeError, Retry, Rejected}
    assert all(issubclass(e, FlowagentError) for e in found)


def test_the_tree_in_the_docstring_names_them():
    for name in ("FlowagentError", "ConfigError", "DecodeError", "Retry", "Rejected"):
        assert name in errors.__doc__


def test_a_config_error_names_the_path():
    error = ConfigError("http.listen", "'x' is not an address")
    assert str(error) == "http.listen: 'x' is not an address"
    assert (error.path, error.problem) == ("http.listen", "'x' is not an address")


def test_a_config_error_about_the_whole():
    assert str(ConfigError("", "is empty")) == "is empty"


@pytest.mark.parametrize("kind", [DecodeError, Rejected])
def test_a_reason_with_and_without_detail(kind):
    assert (str(kind("truncated")), kind("truncated").reason) == ("truncated", "truncated")
    assert str(kind("truncated", "3 of 4 bytes")) == "truncated: 3 of 4 bytes"


def test_retry_knows_when():
    assert Retry("busy").after is None
    assert Retry("busy", after=2.5).after == 2.5
    assert str(Retry("busy", after=2.5)) == "busy"
