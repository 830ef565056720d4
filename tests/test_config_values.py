"""Texts in the configuration (addresses, durations, sizes), and random configurations.

Beside test_config.py because one file would be too long.
"""

import contextlib
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.config import parse, plain
from flowagent.errors import ConfigError
from flowagent.sections import parse_duration, parse_listen, parse_size


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8077", ("127.0.0.1", 8077)),
        ("[::]:4739", ("::", 4739)),
        ("[2001:db8::1]:0", ("2001:db8::1", 0)),
        (":65535", ("::", 65535)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_addresses_to_listen_on(text, address):
    assert parse_listen(text, "x") == address


@pytest.mark.parametrize(
    "text", ["", "8077", "host", "host:", "host:-1", "host:65536", "host:x", "host:²", "h:" + "9" * 5000]
)
def test_what_is_no_address_to_listen_on(text):
    with pytest.raises(ConfigError, match=r"^x: .* is not an address to listen on; write host:port"):
        parse_listen(text, "x")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0), (1.5, 1.5), ("10", 10), ("10s", 10), ("500ms", 0.5), ("1.5m", 90), ("2 h", 7200), (" 1d ", 86400)],
)
def test_durations(value, seconds):
    assert parse_duration(value, "x") == seconds


@pytest.mark.parametrize(
    "value", ["", "s", "10 days", "-1s", "1e3", "10s5", -1, float("nan"), float("inf"), "400d", "9" * 400]
)
def test_what_is_no_duration(value):
    with pytest.raises(ConfigError, match=r"^x: .* is (not a duration; write|out of range; durations are)"):
        parse_duration(value, "x")


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("500kB", 500_000),
        ("64MiB", 64 << 20),
        ("64 MB", 64 * 10**6),
        ("1G", 10**9),
    ],
)
def test_sizes(value, size):
    assert parse_size(value, "x") == size


@pytest.mark.parametrize("value", ["", "MB", "1.5MB", "-1", "1PB", "1mb", "9" * 5000, -1])
def test_what_is_no_size(value):
    with pytest.raises(ConfigError, match=r"^x: .* is not a size; write"):
        parse_size(value, "x")


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=3)
)
words = st.sampled_from(
    ["ingest", "analyse", "export", "window", "http", "state", "type", "name", "udp", "file", "counters", "listen",
     "path", "every", "key", "measures", "labels", "max_keys", "tls", "cert", "sampling_rates", "receive_buffer",
     "10s", "127.0.0.1:1", "${HOME}", "${NOPE}", "${NOPE:-x}", "src_addr", "bytes"]
)  # fmt: skip
values = st.recursive(
    leaves | words,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def entries(kind):
    return st.lists(st.dictionaries(words, values, max_size=3).map(lambda d: {"type": kind, **d}), max_size=3)


sections = st.fixed_dictionaries(
    {},
    optional={
        "ingest": values | entries("udp"),
        "analyse": values | entries("counters"),
        "export": values | entries("file"),
        "window": values,
        "http": values,
    },
)


@given(values | sections)
def test_nothing_but_a_config_error_escapes(raw):
    with contextlib.suppress(ConfigError):
        config = parse(raw, {"HOME": "home"})
        assert parse(msgspec.json.decode(msgspec.json.encode(plain(config))), {}) == config


@pytest.mark.parametrize("name", ["x` - at `$.http.foo", "\ud800", "", "."])
@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"http": bad}, lambda bad: {"ingest": [bad]}])
def test_nor_for_hostile_names(name, wrap):
    with pytest.raises(ConfigError):
        parse(wrap({name: 1}), {})


@pytest.mark.parametrize("listen", ["0.0.0.0:8077", "[::]:8077", ":8077", "192.0.2.1:80", "agent.example:80"])
def test_an_address_that_others_reach_needs_a_token_or_a_word(listen):
    with pytest.raises(ConfigError, match=r"http.listen: .* can be reached by others") as caught:
        parse({"http": {"listen": listen}})
    assert caught.value.path == "http.listen"
    for guard in ({"token_file": "token"}, {"tls": {"cert": "c", "key": "k"}}, {"open": True}):
        assert parse({"http": {"listen": listen, **guard}}).http.listen == listen


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "127.1.2.3:1", "[::1]:1", "localhost:1", None])
def test_the_loopback_needs_none(listen):
    assert parse({"http": {"listen": listen}}).http.listen == listen


@pytest.mark.parametrize(
    ("setting", "problem"),
    [({"step": "500ms"}, "history.step: '500ms' is too short"), ({"keep": 0}, "history.keep: 0.0 keeps nothing"),
     ({"memory": "much"}, "history.memory: 'much' is not a size"), ({"rows": 10}, "history.rows: 10 is wrong")],
)  # fmt: skip
def test_a_history_that_cannot_be_kept(setting, problem):
    with pytest.raises(ConfigError, match=re.escape(problem)):
        parse({"history": setting})


@pytest.mark.parametrize(
    ("step", "window", "seconds"),
    [("10s", "10s", 10), ("10s", "60s", 60), ("10s", "4s", 12), ("5s", 0, 5), ("1s", 0, 1)],
)
def test_steps_of_the_history_are_whole_windows(step, window, seconds):
    config = parse({"history": {"step": step}, "window": {"every": window} if window else 0})
    assert config.history.step_seconds(config.window) == seconds
