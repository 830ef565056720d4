"""Policies of a running agent, over HTTP: added, asked, refused, removed, under a flood and through reloads."""

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path

import datasketches as ds
import pytest
from live.generate import generate
from live.polling import until
from web import described

PATH = "/api/v1/policies"
MIB = 1 << 20


def ask(agent, method, path="", body=None, **headers):
    """(status, headers, body); plain data where that is JSON, which is as described."""
    data = json.dumps(body).encode() if body is not None else None
    url = f"http://127.0.0.1:{agent.http_port}{PATH}{path}"
    headers = {"Content-Type": "application/json"} | headers
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=10)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        content, content_type = answer.read(), answer.headers.get("Content-Type", "")
        if content_type.startswith("application/json"):
            content = json.loads(content)
        described.check(method, PATH + path.partition("?")[0], answer.status, content_type, content)
        return answer.status, answer.headers, content


def get(agent, path=""):
    status, _, content = ask(agent, "GET", path)
    assert status == 200, content
    return content


def names(agent):
    return [policy["name"] for policy in get(agent)]


def sums(result):
    """Records, packets and bytes of all groups."""
    return tuple(sum(group[name] for group in result["groups"]) for name in ("records", "packets", "bytes"))


def whole(agent, name, rest=""):
    """What all finished windows of a policy say together."""

    def look():
        count = get(agent, f"/{name}")["windows"]
        found = count and get(agent, f"/{name}/1-{count}{rest}")
        return found if get(agent, f"/{name}")["windows"] == count else None

    return until(look, "there are windows, and none ends meanwhile")


def finished(agent, name, records):
    """The same, once so many records are in them."""
    return until(lambda: sums(r := whole(agent, name))[0] >= records and r, f"{records} records are in windows")


def add(agent, name, **settings):
    status, headers, made = ask(agent, "POST", body={"name": name, "every": "1s", "periods": 60, **settings})
    assert (status, headers["Location"]) == (201, f"{PATH}/{name}"), made
    return made


def reload(agent):
    before = agent.log.count("reloaded")
    agent.write_config()
    agent.signal(signal.SIGHUP)
    until(lambda: agent.log.count("reloaded") > before, "the agent says that it reloaded")


def peak(agent):
    """Bytes of memory that the process had resident at most."""
    status = Path(f"/proc/{agent.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def test_policies_tell_exactly_what_was_sent(make_agent):
    agent = make_agent()
    add(agent, "all", top=[{"of": "dst_addr"}], distinct=["src_addr"])
    add(agent, "web", filter="dst_port == 443 and proto == tcp")
    assert get(agent, "/all/live")["is_live"]

    sent = generate(agent.port, records=20_000, rate=40_000)
    result = finished(agent, "all", sent.records)
    web = whole(agent, "web")
    hll, frequent = (whole(agent, "all", f"/sketches/{query}") for query in ("hll?of=src_addr", "frequent?of=dst_addr"))
    agent.stop()

    assert sums(result) == (sent.records, *sent.sums)
    rows = agent.rows()
    of_web = [row for row in rows if row["dst_port"] == 443 and row["proto"] == 6]
    truth = tuple(sum(row[name] for row in of_web) for name in ("records", "packets", "bytes"))
    assert sums(web) == truth
    assert 0 < truth[0] < sent.records
    hosts = len({row["src_addr"] for row in rows})
    assert result["groups"][0]["distinct"][0]["estimate"] == pytest.approx(hosts, rel=0.08)
    assert ds.hll_sketch.deserialize(hll).get_estimate() == pytest.approx(hosts, rel=0.08)
    assert ds.frequent_strings_sketch.deserialize(frequent).total_weight == sent.sums.bytes


def test_what_is_wrong_is_refused_and_pointed_at(make_agent):
    agent = make_agent()
    before = names(agent)
    text = "proto == tcp and dst_port in {80, }"
    status, _, error = ask(agent, "POST", body={"name": "bad", "filter": text})
    assert (status, error["path"], error["position"]) == (400, "filter", text.index("}"))
    _, shown, caret = error["error"].splitlines()
    assert shown[caret.index("^")] == "}"
    assert ask(agent, "POST", body={"name": "default"})[0] == 409
    assert ask(agent, "POST", body={"name": "a"}, **{"Content-Type": "text/plain"})[0] == 415
    assert ask(agent, "POST", body={"name": "a"}, Host="rebound.example")[0] == 403
    assert ask(agent, "DELETE", "/default", Host="rebound.example")[0] == 403
    assert ask(agent, "GET", "/default/last")[0] == 404
    assert names(agent) == before == ["default"]


def test_a_removed_policy_is_gone_also_from_the_metrics(make_agent):
    agent = make_agent()
    add(agent, "short")
    assert agent.metrics().total("flowagent_policy_memory_bytes", policy="short") > 0
    assert ask(agent, "DELETE", "/short")[0] == 204
    assert ask(agent, "DELETE", "/short")[0] == 404
    assert 'policy="short"' not in agent.get("/metrics")
    sent = generate(agent.port, records=1000)
    until(lambda: agent.metrics().decoded == sent.records, "the others go on")


def test_forty_policies_keep_to_their_memory_under_a_flood_of_keys(make_agent):
    agent = make_agent(window={"every": "1s"}, export=[])

    def flood(seed):
        return generate(agent.port, keys=400_000, rate=100_000, duration=3, seed=seed)

    flood(1)
    before = peak(agent)
    for i in range(40):
        add(agent, f"p{i}", top=[{"of": ["src_addr", "dst_addr", "src_port"]}], distinct=["src_addr"], memory="1MiB",
            periods=3)  # fmt: skip
    for seed in (2, 3):
        flood(seed)
        used = [policy["memory_used"] for policy in get(agent) if policy["name"] != "default"]
        assert len(used) == 40
        assert max(used) <= MIB
    assert sum(used) > 10 * MIB, "the flood fills the sketches"
    assert peak(agent) - before < 64 * MIB
    assert agent.metrics().total("flowagent_analysis_faults_total") == 0


def test_added_policies_stay_at_a_reload_and_those_of_the_file_follow_it(make_agent):
    of_file = {"type": "policy", "every": "1s", "periods": 60}
    agent = make_agent(analyse=[{**of_file, "name": "kept"}, {**of_file, "name": "dropped"}])
    add(agent, "added")
    add(agent, "taken")
    sent = generate(agent.port, records=1000, rate=5000)
    until(lambda: agent.metrics().decoded == sent.records, "the records came")
    assert ask(agent, "DELETE", "/kept")[0] == 204

    reload(agent)
    assert sorted(names(agent)) == ["added", "dropped", "kept", "taken"]

    agent.config["analyse"] = [
        {**of_file, "name": "kept"}, {**of_file, "name": "new"}, {**of_file, "name": "taken", "periods": 7},
    ]  # fmt: skip
    reload(agent)
    assert sorted(names(agent)) == ["added", "kept", "new", "taken"]
    assert get(agent, "/taken")["periods"] == 7
    assert sums(finished(agent, "added", sent.records)) == (sent.records, *sent.sums)
