"""From exported datagrams to intervals: those of sampled captures hold the true totals as often as they say."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from flowagent.config import parse
from flowagent.estimates import Problems, Query, read, write
from flowagent.replay import Pace, Replay

DATA = Path(__file__).parent / "data" / "captures"
# Rows a second that are forwarded: about a third of all.
BUDGETS = {
    "softflowd-many-v9": 40,
    "softflowd-many-v5": 32,
    "ovs-ipfix-s1": 2.7,
    "softflowd-ipfix": 2.6,
    "pmacct-ipfix": 3.2,
}
BY = ("src_addr", "dst_port", "exporter")
SECRETS = 20


def replayed(file, name, **sampling):
    """The file with the rows of a capture."""
    with file.open("wb") as out:
        Replay([DATA / f"{name}.pcap"], pace=Pace(0)).rows(out, parse({"sampling": sampling}))
    return file


def groups(file, by, confidence=0.95):
    """What is estimated from the file, by the value of the column."""
    out = io.StringIO()
    write(read([file], Query((by,), top=0, confidence=confidence), Problems(pytest.fail)), "json", out)
    return {group[by]: group for group in json.loads(out.getvalue())["groups"]}


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Groups in samples with their true totals, by capture, column and confidence."""
    file, secret = (tmp_path_factory.mktemp("trials") / name for name in ("rows", "secret"))
    found = {}
    for name, budget in BUDGETS.items():
        replayed(file, name)
        true = {by: {key: group["total"] for key, group in groups(file, by).items()} for by in BY}
        for number in range(SECRETS):
            secret.write_text(f"secret {number}")
            replayed(file, name, budget=budget, secret_file=str(secret))
            for by, confidence in [*((by, 0.95) for by in BY), ("dst_port", 0.5)]:
                found.setdefault((name, by, confidence), []).extend(
                    (key, group, true[by][key]) for key, group in groups(file, by, confidence).items()
                )
    return found


def coverage(found):
    return np.mean([group["low"] <= true <= group["high"] for _, group, true in found])


@pytest.mark.parametrize("by", BY)
def test_intervals_hold_the_true_totals(trials, by):
    found = [trial for (_, column, c), some in trials.items() if (column, c) == (by, 0.95) for trial in some]
    assert coverage(found) >= 0.93
    assert sum(group["variance"] > 0 for _, group, _ in found) > len(found) / 4
    six = [trial for trial in found if ":" in str(trial[0])]
    assert len(six) > 1000 or by != "src_addr"
    assert not six or coverage(six) >= 0.93


@pytest.mark.parametrize("name", ["softflowd-many-v9", "softflowd-many-v5"])
def test_intervals_are_not_much_wider_than_they_must_be(trials, name):
    # Ports that have tens of rows each: there are 200 trials, so 0.07 is twice the standard error.
    assert 0.43 <= coverage(trials[name, "dst_port", 0.5]) <= 0.75


@pytest.mark.parametrize("name", BUDGETS)
def test_totals_are_unbiased(trials, name):
    errors = np.array([group["total"] - true for _, group, true in trials[name, "exporter", 0.95]])
    assert len(errors) == SECRETS
    assert abs(errors.mean()) < 4 * errors.std() / len(errors) ** 0.5
