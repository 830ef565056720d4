"""The page of a running agent, after a known matrix of traffic: it shows these numbers and no others."""

import json
import socket
import struct
import urllib.parse
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from live.polling import until
from ui.browser import VIEWS, Browser, pictures_directory, readable

VENDOR = Path(__file__).parents[2] / "flowagent" / "web" / "static" / "vendor" / "SOURCE"
pytestmark = pytest.mark.service("chromium", "chromedriver", str(VENDOR))
HOSTS = [f"10.1.0.{i}" for i in range(1, 7)]
# Bytes from each host (row) to each other (column); some ways have nothing, and b → a comes back to a → b.
MATRIX = {
    (src, dst): 1_000_000 * (i + 1) + 12_345 * j
    for i, src in enumerate(HOSTS)
    for j, dst in enumerate(HOSTS)
    if src != dst and (i * j) % 5 != 3
}
RECORDS = 24


def netflow5(flows):
    """Datagrams of NetFlow v5, 1:1 by their header, of ((src, dst), bytes)."""
    for begin in range(0, len(flows), RECORDS):
        part = flows[begin : begin + RECORDS]
        header = struct.pack("!HHIIIIBBH", 5, len(part), 60_000, 1_790_000_000, 0, begin, 0, 0, 0x4001)
        yield header + b"".join(record(*flow) for flow in part)


def record(pair, size):
    src, dst = (IPv4Address(text).packed for text in pair)
    hop, interfaces, times, ports = bytes(4), (1, 2), (0, 1000), (40000, 443)
    flags, tcp, tos, systems, masks = 0x18, 6, 0, (0, 0), (24, 24)
    numbers = (*interfaces, size // 1000, size, *times, *ports, 0, flags, tcp, tos, *systems, *masks, 0)
    return src + dst + hop + struct.pack("!HHIIIIHHBBBBHHBBH", *numbers)


def send(agent, flows):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in netflow5(flows):
            sender.sendto(datagram, ("127.0.0.1", agent.port))


def ask(agent, **parameters):
    return json.loads(agent.get(f"/api/v1/query?{urllib.parse.urlencode(parameters)}"))


def total(agent):
    return ask(agent, **{"from": "-15m"})["total"]["value"]


@pytest.fixture
def agent(make_agent):
    """An agent that the matrix went to."""
    agent = make_agent(history={"step": "1s"})
    send(agent, list(MATRIX.items()))
    until(lambda: total(agent) == sum(MATRIX.values()), "the matrix is in the history")
    return agent


@pytest.fixture
def browser(agent, tmp_path_factory):
    pictures = pictures_directory(tmp_path_factory.getbasetemp() / "screenshots")
    browser = Browser(f"http://127.0.0.1:{agent.http_port}", pictures)
    yield browser
    try:
        assert browser.foreign() == []
        assert browser.complaints() == []
    finally:
        browser.close()


def test_the_page_shows_the_matrix(agent, browser):
    browser.open("#/sankey?columns=src_addr,dst_addr&live=0")
    assert len(browser.all(".sankey .link")) == len(MATRIX)
    assert len(browser.all(".sankey .node")) == len({src for src, _ in MATRIX}) + len({dst for _, dst in MATRIX})
    assert browser.pairs() == {pair: readable(size) for pair, size in MATRIX.items()}
    assert "exact" in browser.text(".summary")
    answer = ask(agent, **{"from": "-15m", "dimensions": "src_addr,dst_addr", "fold": "row", "top": 2000})
    assert {tuple(d["values"][i]["label"] for d, i in zip(answer["dimensions"], row["at"], strict=True)): row["value"]
            for row in answer["rows"]} == MATRIX  # fmt: skip

    browser.open("#/chord?columns=addr&live=0")
    assert len(browser.all(".ribbon")) == len(MATRIX)
    out = {host: sum(size for (src, _), size in MATRIX.items() if src == host) for host in HOSTS}
    said = {label.split(", ")[0]: label for label in browser.labels(".arc")}
    for host in HOSTS:
        assert f"sent {readable(out[host])}" in said[host]


def test_clicks_ask_the_agent_and_news_come_by_themselves(agent, browser):
    browser.open("#/sankey?columns=src_addr,dst_addr")
    node = next(
        e
        for e in browser.all(".sankey .node")
        if e.get_attribute("aria-label").startswith(f"source address {HOSTS[0]},")
    )
    browser.go(lambda: browser.click(node.find_element("css selector", "rect"), shift=True))
    browser.wait("document.querySelector('.crumb.excluded')")
    left = {pair: readable(size) for pair, size in MATRIX.items() if pair[0] != HOSTS[0]}
    until(lambda: browser.pairs() == left, "the others")
    send(agent, [((HOSTS[1], "10.9.9.9"), 77_000_000)])
    until(lambda: browser.pairs().get((HOSTS[1], "10.9.9.9")) == "77.0 MB", "what came since")
    browser.open(browser.address)
    assert (HOSTS[0], HOSTS[1]) not in browser.pairs()


def test_the_agent_says_where_a_filter_is_wrong(browser):
    browser.open("#/flows?live=0&filter=proto+%3D%3D+tcp&filter=dst_prot+%3D%3D+443")
    assert browser.texts(".crumb.wrong button:first-child") == ["dst_prot == 443"]
    assert browser.text(".mistake mark") == "d"
    assert "there is no column dst_prot" in browser.text(".mistake")
    assert all("400" in text for text in browser.complaints())


def test_every_view_of_a_running_agent(browser):
    for view in VIEWS:
        browser.open(f"#/{view}")
        assert browser.all("main .card")
        assert not browser.all(".message") or view == "policies"
        browser.picture(f"agent-{view}")
