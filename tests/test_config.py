"""The configuration file: defaults, and for everything wrong the path, the value and a remedy."""

from pathlib import Path

import msgspec
import pytest
import yaml

from flowagent.config import EXAMPLE, json_schema, kinds_of, load, parse, plain, state_directory
from flowagent.errors import ConfigError
from flowagent.sections import Http, State, Tls, Window

NOTHING: dict[str, str] = {}


def problem(raw, environ=NOTHING):
    """Path and message of what is wrong."""
    with pytest.raises(ConfigError) as caught:
        parse(raw, environ)
    return caught.value.path, caught.value.problem


def test_every_default():
    assert msgspec.json.decode(msgspec.json.encode(plain(parse({}, NOTHING)))) == {
        "ingest": [
            {
                "type": "udp",
                "name": "udp",
                "listen": ["[::]:2055", "[::]:4739", "[::]:6343"],
                "receive_buffer": 67_108_864,
                "reuse_port": False,
                "sampling_rates": {},
                "max_delay": 0.1,
                "batch": 8192,
            }
        ],
        "analyse": [
            {"type": "counters", "name": "counters", "labels": ["exporter", "proto"], "max_series": 1000},
            {
                "type": "policy",
                "name": "default",
                "filter": None,
                "group_by": [],
                "max_groups": 50,
                "top": [
                    {"of": "src_addr", "by": "bytes", "k": 10},
                    {"of": "dst_addr", "by": "bytes", "k": 10},
                    {"of": ["proto", "dst_port"], "by": "bytes", "k": 10},
                    {"of": ["src_addr", "dst_addr"], "by": "bytes", "k": 10},
                ],
                "distinct": ["src_addr", "dst_addr"],
                "quantiles": ["bytes"],
                "entropy": [],
                "rates": ["bytes"],
                "every": "60s",
                "periods": 5,
                "memory": "16MiB",
                "max_series": 100,
            },
        ],
        "enrich": [],
        "export": [],
        "window": {
            "every": "10s",
            "key": ["src_addr", "dst_addr", "src_port", "dst_port", "proto",
                    "exporter", "observation_domain", "in_if", "out_if", "direction"],
            "measures": ["bytes", "packets", "records", "start_ns", "end_ns", "received_ns", "tcp_flags"],
            "max_keys": 200_000,
        },
        "sampling": {
            "budget": None,
            "method": "threshold",
            "objectives": {"bytes": 0.5, "packets": 0.25, "flows": 0.25},
            "by": [],
            "guarantee": 0.5,
            "keep": [],
            "keep_new_peers": 0,
            "fraction": 0.01,
            "rotate": True,
            "coin": ["src_addr", "dst_addr", "src_port", "dst_port", "proto"],
            "secret_file": None,
            "overload": True,
        },
        "http": {"listen": "127.0.0.1:8077", "token_file": None, "tls": None},
        "state": {"path": None},
    }  # fmt: skip


def test_the_defaults_of_a_file_sink():
    (kind,) = parse({"export": [{"type": "file", "path": "flows.ndjson"}]}, NOTHING).export
    assert msgspec.to_builtins(kind.settings) == {
        "path": "flows.ndjson",
        "rotate_every": 0,
        "rotate_size": 0,
        "keep": 0,
        "compression": None,
    }


def test_no_file_is_no_configuration():
    assert load(None, NOTHING) == parse({}, NOTHING)


def test_an_empty_file_is_no_configuration(tmp_path):
    file = tmp_path / "flowagent.yaml"
    file.write_text("# nothing here\n")
    assert load(file, NOTHING) == parse({}, NOTHING)


def test_the_same_settings_are_equal():
    raw = {"ingest": [{"type": "udp", "listen": "127.0.0.1:2055"}], "window": {"every": "5s"}}
    assert parse(raw, NOTHING) == parse(raw, NOTHING)
    assert len({*parse(raw, NOTHING).ingest, *parse(raw, NOTHING).ingest}) == 1


def test_a_section_with_nothing_in_it_is_the_default():
    config = parse({"ingest": None, "analyse": None, "export": None}, NOTHING)
    assert config == parse({}, NOTHING)


def test_analysis_can_be_turned_off():
    assert parse({"analyse": []}, NOTHING).analyse == ()


def test_without_a_source_there_is_nothing_to_do():
    assert problem({"ingest": []}) == ("ingest", "is empty; name at least one source, such as {type: udp}")


def test_a_window_of_zero_passes_through():
    assert parse({"window": 0}, NOTHING).window.seconds == 0
    assert parse({"window": {"every": 0}}, NOTHING).window.seconds == 0


@pytest.mark.parametrize("raw", [[], "text", 5, None])
def test_the_whole_must_be_sections(raw):
    assert problem(raw)[1].startswith(f"the configuration is a {type(raw).__name__}; it must be sections")


@pytest.mark.parametrize(
    ("raw", "path", "close"),
    [
        ({"exports": []}, "exports", "export"),
        ({"window": {"evry": "5s"}}, "window.evry", "every"),
        ({"http": {"lisen": "x"}}, "http.lisen", "listen"),
        ({"http": {"tls": {"cret": "x", "key": "y"}}}, "http.tls.cret", "cert"),
        ({"state": {"pth": "x"}}, "state.pth", "path"),
        ({"ingest": [{"type": "udp"}, {"type": "udp", "bacth": 1}]}, "ingest[1].bacth", "batch"),
        ({"export": [{"type": "file", "path": "x", "compresion": "gzip"}]}, "export[0].compresion", "compression"),
        ({"analyse": [{"type": "counters", "lables": []}]}, "analyse[0].lables", "labels"),
    ],
)  # fmt: skip
def test_a_misspelt_setting_names_the_right_one(raw, path, close):
    where, what = problem(raw)
    assert where == path
    assert what.startswith(f"is not a setting; did you mean {close}?; known: ")


def test_a_setting_like_none_there_is_lists_what_there_is():
    assert problem({"state": {"zzz": 1}}) == ("state.zzz", "is not a setting; known: path")


@pytest.mark.parametrize(
    ("raw", "path", "what"),
    [
        ({"ingest": {"type": "udp"}}, "ingest", "expected `array"),
        ({"ingest": ["udp"]}, "ingest[0]", "'udp' is wrong: expected `object`"),
        ({"ingest": [{"type": "udp", "batch": "64"}]}, "ingest[0].batch", "'64' is wrong: expected `int`"),
        ({"ingest": [{"type": "udp", "batch": 1}]}, "ingest[0].batch", "1 is wrong: expected `int` >= 16"),
        ({"ingest": [{"type": "udp", "receive_buffer": 1 << 32}]}, "ingest[0].receive_buffer", f"{1 << 32} is wrong"),
        ({"ingest": [{"type": "udp", "max_delay": 2}]}, "ingest[0].max_delay", "2 is wrong: expected `float` <= 1"),
        ({"ingest": [{"type": "udp", "listen": [1]}]}, "ingest[0].listen[0]", "1 is wrong: expected `str`"),
        ({"export": [{"type": "file"}]}, "export[0]", "missing required field `path`"),
        ({"export": [{"type": "file", "path": "x", "compression": "lz4"}]}, "export[0].compression", "'lz4' is wrong"),
        ({"export": [{"type": "file", "path": "x", "keep": -1}]}, "export[0].keep", "-1 is wrong: expected `int` >= 0"),
        ({"window": {"max_keys": 10}}, "window.max_keys", "10 is wrong: expected `int` >= 1024"),
        ({"window": {"every": True}}, "window.every", "True is wrong"),
        ({"window": 5}, "window", "5 is wrong"),
        ({"window": {"key": "proto"}}, "window.key", "'proto' is wrong"),
        ({"http": {"listen": 8077}}, "http.listen", "8077 is wrong: expected `str | null`"),
        ({"http": {"tls": {"cert": "x"}}}, "http.tls", "missing required field `key`"),
        ({"http": None}, "http", "None is wrong: expected `object`"),
        ({"analyse": [{"type": "counters", "max_series": 0}]}, "analyse[0].max_series", "0 is wrong"),
    ],
)  # fmt: skip
def test_a_bad_value_is_shown_with_its_path_and_what_would_be_right(raw, path, what):
    where, text = problem(raw)
    assert where == path
    assert what in text


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({}, "is missing; one of: {kinds}"),
        ({"tpye": "udp"}, "is missing; one of: {kinds}"),
        ({"type": 5}, "is missing; one of: {kinds}"),
        ({"type": "upd"}, "'upd' is not a kind; one of: {kinds}; did you mean udp?"),
        ({"type": "pcap"}, "'pcap' is not a kind; one of: {kinds}"),
        ({"type": "_private"}, "'_private' is not a kind; one of: {kinds}"),
        ({"type": "../udp"}, "'../udp' is not a kind; one of: {kinds}"),
        ({"type": ""}, "'' is not a kind; one of: {kinds}"),
    ],
)
def test_a_kind_that_does_not_exist(entry, text):
    assert problem({"ingest": [entry]}) == ("ingest[0].type", text.format(kinds=", ".join(kinds_of("ingest"))))


def test_the_kinds_of_each_section():
    assert {section: kinds_of(section) for section in ("ingest", "analyse", "export")} == {
        "ingest": ["file", "kafka", "packets", "udp"],
        "analyse": ["counters", "policy"],
        "export": ["file", "ipfix", "kafka", "loki", "otlp", "parquet", "webhook"],
    }


def names(*entries):
    return [kind.name for kind in parse({"ingest": list(entries)}, NOTHING).ingest]


def test_names():
    assert names({"type": "udp"}) == ["udp"]
    assert names({"type": "udp", "name": "edge"}, {"type": "udp"}) == ["edge", "udp"]


def test_nameless_components_of_one_kind_are_numbered():
    assert names({"type": "udp"}, {"type": "udp"}, {"type": "udp"}) == ["udp", "udp-2", "udp-3"]


def test_numbers_avoid_the_names_that_are_taken():
    found = names({"type": "udp", "name": "udp-3"}, {"type": "udp"}, {"type": "udp"})
    assert len(set(found)) == 3


@pytest.mark.parametrize("name", ["edge", 5, None, ["edge"]])
def test_a_name_must_be_a_text_of_its_own(name):
    entries = [{"type": "udp", "name": "edge"}, {"type": "udp", "name": name}]
    where, what = problem({"ingest": entries})
    assert where == "ingest[1].name"
    assert what == f"{name!r} is taken or no text; names must differ within ingest"


def test_names_may_repeat_in_another_section():
    config = parse(
        {"ingest": [{"type": "udp", "name": "a"}], "export": [{"type": "file", "name": "a", "path": "x"}]}, NOTHING
    )
    assert config.ingest[0] != config.export[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src_adr", "'src_adr' is not a key column; did you mean src_addr?"),
        ("bytes", "'bytes' is not a key column"),
        ("weight", "'weight' is not a key column"),
    ],
)
def test_a_window_key_must_be_made_of_key_columns(name, text):
    where, what = problem({"window": {"key": ["proto", name]}})
    assert where == "window.key"
    assert what.startswith(text)


@pytest.mark.parametrize(
    ("name", "text"), [("byts", "'byts' cannot be merged; did you mean bytes?"), ("proto", "'proto' cannot be merged")]
)
def test_a_window_measure_must_have_a_merge_rule(name, text):
    where, what = problem({"window": {"measures": ["bytes", name]}})
    assert where == "window.measures"
    assert what.startswith(text)


def test_environment_variables():
    raw = {"http": {"listen": "${HOST}:${PORT:-8077}"}, "export": [{"type": "file", "path": "${DIR:-}/x-${HOST}"}]}
    config = parse(raw, {"HOST": "127.0.0.1"})
    assert config.http.listen == "127.0.0.1:8077"
    assert config.export[0].settings.path == "/x-127.0.0.1"


def test_what_an_environment_variable_holds_is_not_expanded_again():
    assert parse({"state": {"path": "${A}"}}, {"A": "${B}"}).state.path == "${B}"


def test_an_environment_variable_that_is_not_set():
    raw = {"export": [{"type": "file", "path": "${NOPE}"}]}
    where, what = problem(raw)
    assert where == "export[0].path"
    assert what == "the environment variable NOPE is not set; set it, or write ${NOPE:-default}"


def test_yaml_errors_say_the_line(tmp_path):
    file = tmp_path / "flowagent.yaml"
    file.write_text("http:\n  listen: 'x\n")
    with pytest.raises(ConfigError, match="is not YAML") as caught:
        load(file, NOTHING)
    assert caught.value.path.startswith(f"{file}:3:")


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "\t",
        "x: 2024-13-45",
        "x: 0x_",
        "[" * 5000,
        "\x01",
        "? [1]\n: 2",
        "a: *b",
        "!!python/object:os.system {}",
    ],
    ids=["open", "tab", "date", "number", "deep", "control", "key", "alias", "tag"],
)
def test_other_yaml_errors(tmp_path, text):
    file = tmp_path / "flowagent.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="is not YAML"):
        load(file, NOTHING)


def test_a_file_that_contains_itself(tmp_path):
    file = tmp_path / "flowagent.yaml"
    file.write_text("ingest: &all [{type: udp, listen: *all}]")
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(file, NOTHING)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the configuration: No such file"):
        load(tmp_path / "missing.yaml", NOTHING)
    with pytest.raises(ConfigError, match="cannot read the configuration: Is a directory"):
        load(tmp_path, NOTHING)


def test_a_file_that_is_not_text(tmp_path):
    file = tmp_path / "flowagent.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(file, NOTHING)


def test_where_state_is_kept():
    assert state_directory(State(path="/a"), {"STATE_DIRECTORY": "/b"}) == Path("/a")
    assert state_directory(State(), {"STATE_DIRECTORY": "/b:/c", "XDG_STATE_HOME": "/d"}) == Path("/b")
    assert state_directory(State(), {"XDG_STATE_HOME": "/d"}) == Path("/d/flowagent")
    assert state_directory(State(), {}) == Path.home() / ".local/state/flowagent"


def test_the_example_is_right():
    config = parse(yaml.safe_load(EXAMPLE), NOTHING)
    kinds = [kind.type for kind in (*config.ingest, *config.analyse, *config.export)]
    assert kinds == ["udp", "counters", "policy", "file"]
    assert config.window == Window(every="10s")
    assert config.http == Http()


def test_what_is_shown_can_be_read_again():
    config = parse(yaml.safe_load(EXAMPLE), NOTHING)
    assert parse(yaml.safe_load(yaml.safe_dump(plain(config))), NOTHING) == config


def test_the_schema_names_every_setting():
    schema = json_schema()
    sections = schema["$defs"]["_File"]["properties"]
    assert set(sections) == {"ingest", "enrich", "analyse", "export", "window", "sampling", "http", "state"}
    for section in ("ingest", "analyse", "export"):
        choices = sections[section]["items"]["oneOf"]
        assert [choice["properties"]["type"]["const"] for choice in choices] == kinds_of(section)
        assert all(choice["additionalProperties"] is False for choice in choices)
    assert set(schema["$defs"]["Window"]["properties"]) == set(Window.__struct_fields__)
    assert set(schema["$defs"]["Tls"]["properties"]) == set(Tls.__struct_fields__)
    assert msgspec.json.encode(schema)


def test_two_counters_would_count_twice():
    two = {"analyse": [{"type": "counters"}, {"type": "counters", "name": "ports", "labels": ["dst_port"]}]}
    with pytest.raises(ConfigError, match=r"analyse\[1\].type: 'counters' is there already"):
        parse(two)


def test_a_window_of_less_than_a_second_is_refused():
    with pytest.raises(ConfigError, match=r"window.every: '100ms' is too short"):
        parse({"window": {"every": "100ms"}})
