"""The log goes to stderr and nowhere else."""

import logging

import pytest

from flowagent.errors import ConfigError
from flowagent.log import set_up


@pytest.fixture(autouse=True)
def _restored():
    logger = logging.getLogger("flowagent")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before
    logger.setLevel(before[1])


def test_to_stderr_with_level_and_name(capsys, monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    set_up("info")
    logging.getLogger("flowagent.udp").info("listening")
    out, err = capsys.readouterr()
    assert out == ""
    stamp, _, rest = err.partition(" ")
    assert rest == "INFO flowagent.udp: listening\n"
    assert stamp[4] == stamp[7] == "-"


def test_the_journal_has_its_own_time_stamps(capsys, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    set_up("info")
    logging.getLogger("flowagent").warning("full")
    assert capsys.readouterr().err == "WARNING flowagent: full\n"


def test_below_the_level_nothing_is_said(capsys):
    set_up("warning")
    logging.getLogger("flowagent.udp").info("listening")
    assert capsys.readouterr().err == ""


def test_set_up_twice_says_it_once(capsys):
    set_up("info")
    set_up("INFO")
    logging.getLogger("flowagent").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_a_level_that_does_not_exist():
    with pytest.raises(ConfigError, match="'loud' is no level; one of: debug, info, warning, error"):
        set_up("loud")
