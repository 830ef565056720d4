"""Answers of the double that never change much: status, exporters, policies."""

SAMPLING = {"method": "threshold", "budget": 500, "threshold_bytes": 18350.0}
STATUS = {
    "version": "0.1.0",
    "node": "node-3",
    "uptime": 8040.0,
    "ready": [],
    "outcomes": [
        {"outcome": "exported", "reason": "", "records": 1_204_330},
        {"outcome": "sampled_out", "reason": "budget", "records": 392_114},
        {"outcome": "dropped", "reason": "duplicate_direction", "records": 20_551},
        {"outcome": "dropped", "reason": "filter", "records": 4_021},
        {"outcome": "dropped", "reason": "internal", "records": 12},
    ],
    "rates": {"records": 1520.4, "bytes": 1_253_011.0, "packets": 18_220.0},
    "sinks": [
        {"name": "kafka", "records": 1_204_330, "errors": 0, "failing": False},
        {"name": "loki", "records": 1_201_090, "errors": 14, "failing": True},
    ],
}
POLICIES = [
    {
        "name": "web",
        "filter": "proto == tcp and dst_port == 443",
        "group_by": [],
        "top": [{"of": "src_addr", "by": "bytes", "k": 10}],
        "every": "60s",
        "windows": 3,
        "memory_used": 812_000,
    }
]


def exporters(now_ns):
    """Three: one of Open vSwitch, one that lost records, one whose rate nobody knows."""
    names = ("exporter", "protocol", "observation_domain", "templates", "is_ovs", "sampling_rates", "datagrams",
             "records", "lost_records", "restarts")  # fmt: skip
    rows = [
        ("192.0.2.1", "ipfix", 1, 88, True, {"domain": 400.0}, 61_023, 712_003, 0, 0),
        ("192.0.2.2", "netflow9", 0, 4, False, {"selector 1": 1000.0}, 22_120, 503_998, 1_870, 0),
        ("192.0.2.3", "netflow5", 0, 0, False, {}, 9_001, 214_300, 0, 1),
    ]
    common = {"source": "udp", "not_sent_packets": None, "last_seen_ns": now_ns - 10**9}
    return [common | dict(zip(names, row, strict=True)) for row in rows]


def result(name, now_ns):
    """The last window of a policy."""
    ranking = {"of": ["src_addr"], "by": "bytes", "error": 1200.0}
    ranking["rows"] = [{"src_addr": f"10.244.0.{i}", "bytes": 9e6 / i} for i in range(1, 9)]
    distinct = {"of": ["src_addr"], "estimate": 412.0, "relative_error": 0.016, "is_lower_bound": False}
    group = {
        "group": {},
        "bytes": 3.1e7,
        "packets": 41_000,
        "records": 40_123,
        "top": [ranking],
        "distinct": [distinct],
    }
    return {
        "policy": name,
        "is_live": False,
        "start_ns": now_ns - 60 * 10**9,
        "end_ns": now_ns,
        "seconds": 60.0,
        "records_seen": 40_123,
        "lowest_inclusion_prob": 1.0,
        "groups": [group],
    }
