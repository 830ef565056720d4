"""The command line: data on stdout and nothing else there, exit codes, and errors a person can act on."""

import gzip
import json
import logging
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from flowagent import __version__
from flowagent.cli import main
from flowagent.config import EXAMPLE, json_schema, load, plain

DATA = Path(__file__).parent / "data" / "captures"
CAPTURE = DATA / "softflowd-v5.pcap"
SUMMED = {
    "datagrams", "records", "templates", "options_templates", "options_records",
    "bytes", "packets", "lost_records", "errors", "buffered", "exporters",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _log_restored():
    logger = logging.getLogger("flowagent")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture
def flowagent(monkeypatch, capfdbinary):
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["flowagent", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfdbinary.readouterr()
        return end.value.code, out, err.decode()

    return run


def config_file(tmp_path, text):
    file = tmp_path / "flowagent.yaml"
    file.write_text(text)
    return file


def payload(*octets, count=None):
    """A NetFlow v5 datagram."""
    head = struct.pack("!HHIIIIHH", 5, len(octets) if count is None else count, 0, 1_700_000_000, 0, 0, 0, 0)
    record = struct.Struct("!12xHHIIIIHHBBBBHHBBH")
    return head + b"".join(record.pack(1, 2, 1, n, 0, 0, 80, 443, 0, 2, 6, *[0] * 6) for n in octets)


def test_version(flowagent):
    assert flowagent("--version") == (0, f"{__version__}\n".encode(), "")


@pytest.mark.parametrize("command", ["run", "demo", "replay", "estimate", "generate", "config"])
def test_every_command_has_help(flowagent, command):
    code, out, _ = flowagent(command, "--help")
    assert code == 0
    assert b"Usage" in out


@pytest.mark.parametrize(
    "args", [["--nope"], ["nope"], ["run", "--nope"], ["replay", "--nope", CAPTURE], ["config", "nope"], ["replay"]]
)
def test_unknown_usage_is_2_and_says_so_on_stderr(flowagent, args):
    code, out, err = flowagent(*args)
    assert (code, out) == (2, b"")
    assert "Usage" in err or "Error" in err


def test_config_check_of_nothing(flowagent):
    assert flowagent("config", "check") == (0, b"", "the configuration is right\n")


def test_config_check_of_a_file(flowagent, tmp_path):
    assert flowagent("config", "check", "-c", config_file(tmp_path, "window: {every: 5s}"))[0] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http: {lisen: x}", "http.lisen: is not a setting; did you mean listen?"),
        ("window: {every: soon}", "window.every: 'soon' is not a duration"),
        ("export: [{type: file, path: x, keep: 3}]", "file.keep: needs rotate_every or rotate_size"),
        ("ingest: [{type: udp, listen: nowhere}]", "udp.listen: 'nowhere' is not an address to listen on"),
        ("analyse: [{type: counters, labels: [bytes]}]", "counters.labels: 'bytes' cannot be a label"),
        ("http: {token_file: missing}", "http.token_file: cannot read missing"),
        ("a: [", "is not YAML"),
    ],
)
@pytest.mark.parametrize("command", [["config", "check"], ["run"]])
def test_a_wrong_configuration_is_2_with_path_value_and_remedy(flowagent, tmp_path, text, message, command):
    code, out, err = flowagent(*command, "-c", config_file(tmp_path, text))
    assert (code, out) == (2, b"")
    assert err.startswith("flowagent: ")
    assert message in err


def test_a_configuration_that_is_not_there(flowagent, tmp_path):
    code, out, err = flowagent("config", "check", "-c", tmp_path / "missing.yaml")
    assert (code, out) == (2, b"")
    assert "missing.yaml: cannot read the configuration" in err


def test_config_check_opens_nothing(flowagent, tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        file = config_file(tmp_path, f"ingest: [{{type: udp, listen: '{listen}'}}]")
        assert flowagent("config", "check", "-c", file)[0] == 0


def test_config_show_fills_in_every_default(flowagent, tmp_path):
    file = config_file(tmp_path, "window: {every: 5s}")
    code, out, err = flowagent("config", "show", "-c", file)
    assert (code, err) == (0, "")
    assert yaml.safe_load(out) == json.loads(json.dumps(plain(load(file))))


def test_config_schema(flowagent):
    code, out, err = flowagent("config", "schema")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(json_schema()))


def test_config_example_is_a_right_configuration(flowagent, tmp_path):
    code, out, err = flowagent("config", "example")
    assert (code, out.decode(), err) == (0, EXAMPLE, "")
    assert flowagent("config", "check", "-c", config_file(tmp_path, out.decode()))[0] == 0


def test_replay_summary_has_exactly_the_promised_keys(flowagent):
    code, out, err = flowagent("replay", "--summary", CAPTURE, DATA / "derived-v9-loss.pcap")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert set(document) == {"files", "total"}
    assert [set(one) for one in document["files"]] == [SUMMED | {"file"}] * 2
    assert set(document["total"]) == SUMMED
    assert all(set(one["buffered"]) == {"held", "replayed", "expired"} for one in document["files"])


def test_replay_summary_says_what_the_captures_hold(flowagent):
    _, out, _ = flowagent("replay", "--summary", CAPTURE, DATA / "derived-v9-loss.pcap")
    document = json.loads(out)
    first, second = document["files"]
    assert (first["file"], first["datagrams"], first["records"]) == (str(CAPTURE), 7, 36)
    assert (first["bytes"], first["packets"], first["exporters"]) == (3_799_783, 4038, ["127.0.0.1"])
    assert (second["templates"], second["options_templates"], second["options_records"]) == (15, 3, 3)
    assert second["lost_records"] > 0
    assert document["total"]["records"] == 36 + 1146


def test_replay_raw_prints_a_line_for_each_record(flowagent):
    code, out, err = flowagent("replay", "--raw", CAPTURE)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 36
    first = json.loads(CAPTURE.with_suffix(".truth.json").read_text())["first_records"][0]
    names = ("src_addr", "dst_addr", "src_port", "dst_port", "proto", "bytes", "packets", "tcp_flags")
    assert {name: rows[0][name] for name in names} == {name: first[name] for name in names}


@pytest.fixture
def packets(tmp_path):
    """A capture of a question and its answer, and of ARP."""
    ends = {"src": "10.0.0.1", "dst": "10.0.0.2"}
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    question = link / IP(**ends) / UDP(sport=4000, dport=53) / Raw(bytes(30))
    answer = link / IP(src=ends["dst"], dst=ends["src"]) / UDP(sport=53, dport=4000) / Raw(bytes(200))
    wrpcap(str(tmp_path / "packets.pcap"), [question, answer, link / ARP(psrc=ends["src"], pdst=ends["dst"])])
    return tmp_path / "packets.pcap"


def test_replay_counts_packets_where_there_are_no_exports(flowagent, packets):
    code, out, err = flowagent("replay", packets, "--raw")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["src_port"], row["packets"], row["bytes"]) for row in rows] == [(4000, 1, 58), (53, 1, 228)]
    assert "packets are counted into flows" in err
    assert "1 packets are not IP" in err


def test_replay_does_as_it_is_told(flowagent, packets):
    _, out, err = flowagent("replay", packets, "--summary", "--as", "packets")
    total = json.loads(out)["total"]
    assert [total[name] for name in ("records", "packets", "bytes", "datagrams")] == [2, 2, 286, 0]
    assert total["exporters"] == ["192.0.2.1"]
    assert "counted into flows" not in err
    _, out, err = flowagent("replay", packets, "--summary", "--as", "exports")
    total = json.loads(out)["total"]
    assert [total[name] for name in ("records", "datagrams")] == [0, 2]
    assert sum(total["errors"].values()) == 2
    _, out, _ = flowagent("replay", CAPTURE, "--summary", "--as", "packets")
    assert json.loads(out)["total"]["packets"] == 7


def test_replay_meters_packets_as_the_configuration_says(flowagent, packets, tmp_path):
    config = tmp_path / "agent.yaml"
    config.write_text("ingest: [{type: packets, interface: lo, exporter: 192.0.2.77, sampling_rate: 10}]\n")
    _, out, _ = flowagent("replay", packets, "--raw", "-c", config)
    rows = [json.loads(line) for line in out.splitlines()]
    assert {(row["exporter"], row["sampling_rate"], row["sampling_source"]) for row in rows} == {
        ("192.0.2.77", 10, "config")
    }


def test_replay_prints_windows_without_options(flowagent):
    code, out, _ = flowagent("replay", CAPTURE)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert sum(row["records"] for row in rows) == 36
    assert not any("sequence" in row for row in rows)


def test_replay_uses_the_window_of_the_configuration(flowagent, tmp_path):
    file = config_file(tmp_path, "window: {every: 1h, key: [exporter], measures: [bytes]}")
    _, out, _ = flowagent("replay", "-c", file, CAPTURE)
    assert {row["exporter"] for row in map(json.loads, out.splitlines())} == {"127.0.0.1"}
    assert sum(row["bytes"] for row in map(json.loads, out.splitlines())) == 3_799_783


def test_replay_into_a_file(flowagent, tmp_path):
    code, out, err = flowagent("replay", "--raw", "-o", tmp_path / "rows.ndjson", CAPTURE)
    assert (code, out, err) == (0, b"", "")
    assert len((tmp_path / "rows.ndjson").read_bytes().splitlines()) == 36


def test_replay_rows_into_a_file_and_the_summary_to_stdout(flowagent, tmp_path):
    code, out, _ = flowagent("replay", "--raw", "--summary", "-o", tmp_path / "rows.ndjson", CAPTURE)
    assert code == 0
    assert json.loads(out)["total"]["records"] == len((tmp_path / "rows.ndjson").read_bytes().splitlines()) == 36


def test_replay_cannot_print_both_to_stdout(flowagent):
    code, out, err = flowagent("replay", "--raw", "--summary", CAPTURE)
    assert (code, out) == (2, b"")
    assert "give the rows a file with -o" in err


def test_replay_into_what_cannot_be_written(flowagent, tmp_path):
    code, out, err = flowagent("replay", "-o", tmp_path / "no" / "rows", CAPTURE)
    assert (code, out) == (2, b"")
    assert "--output: cannot write" in err


def test_replay_of_a_datagrams_payload(flowagent, tmp_path):
    (tmp_path / "one.bin").write_bytes(payload(10, 20))
    (tmp_path / "two.bin").write_bytes(payload(30))
    code, out, _ = flowagent("replay", "--raw", tmp_path / "one.bin", tmp_path / "two.bin")
    assert code == 0
    assert [json.loads(line)["bytes"] for line in out.splitlines()] == [10, 20, 30]


def test_replay_of_a_compressed_capture(flowagent, tmp_path):
    (tmp_path / "x.pcap.gz").write_bytes(gzip.compress(CAPTURE.read_bytes()))
    _, out, _ = flowagent("replay", "--raw", tmp_path / "x.pcap.gz")
    assert len(out.splitlines()) == 36


@pytest.mark.parametrize("args", [["missing.pcap"], [DATA]])
def test_replay_of_what_cannot_be_read(flowagent, args):
    code, out, err = flowagent("replay", *args)
    assert (code, out) == (2, b"")
    assert str(args[0]) in err.replace("\n", "")


def test_replay_at_no_speed(flowagent):
    code, _, err = flowagent("replay", "--speed", "fast", CAPTURE)
    assert code == 2
    assert "--speed: 'fast' is none; write max, real, or a factor such as 10x" in err


@pytest.mark.parametrize(("strict", "code"), [([], 0), (["--strict"], 1)])
def test_replay_of_input_with_errors(flowagent, tmp_path, strict, code):
    file = tmp_path / "short.bin"
    file.write_bytes(payload(10, 20, count=5))
    found, out, _ = flowagent("replay", "--summary", *strict, file)
    assert found == code
    assert json.loads(out)["total"]["errors"] == {"bad_record_count": 1}
    assert json.loads(out)["total"]["records"] == 2


def test_strict_counts_sets_whose_template_never_came(flowagent):
    assert flowagent("replay", "--summary", "--strict", DATA / "ovs-ipfix-midstream.pcap")[0] == 1


def test_strict_and_nothing_wrong(flowagent):
    assert flowagent("replay", "--summary", "--strict", CAPTURE)[0] == 0


def test_strict_counts_damaged_captures(flowagent, tmp_path):
    file = tmp_path / "cut.pcap"
    file.write_bytes(CAPTURE.read_bytes()[:-100])
    assert flowagent("replay", "--summary", "--strict", file)[0] == 1


def test_run_where_a_port_is_in_use(flowagent, tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        text = f"{{ingest: [{{type: udp, listen: '{listen}'}}], http: {{listen: null}}, state: {{path: {tmp_path}}}}}"
        code, out, err = flowagent("run", "-c", config_file(tmp_path, text))
    assert (code, out) == (2, b"")
    assert "flowagent: udp.listen: cannot listen on UDP 127.0.0.1" in err
    assert "Traceback" not in err


def test_a_log_level_that_does_not_exist(flowagent):
    code, _, err = flowagent("run", "--log-level", "loud")
    assert code == 2
    assert "--log-level: 'loud' is no level" in err


def test_generate_to_no_address(flowagent):
    code, out, err = flowagent("generate", "--target", "nowhere")
    assert (code, out) == (2, b"")
    assert "'nowhere' is no address" in err


def test_generate_says_what_it_sent(flowagent):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{sink.getsockname()[1]}"
        args = ["--target", target, "--records", "60", "--rate", "0", "--protocol", "netflow5", "--keys", "5"]
        code, out, _ = flowagent("generate", *args)
    assert code == 0
    assert json.loads(out)["records"] == 60


def command(*args):
    return [sys.executable, "-m", "flowagent", *map(str, args)]


def test_as_a_module_without_arguments_it_helps():
    done = subprocess.run(command(), capture_output=True, check=False)
    assert done.returncode == 2
    assert b"Usage" in done.stdout + done.stderr


def test_nobody_reads_stdout_any_more():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command("replay", "--raw", CAPTURE), stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert b"Traceback" not in done.stderr
    assert done.returncode in (0, 1)
