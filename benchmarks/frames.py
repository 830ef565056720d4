"""Captures to read: TCP and UDP frames of Zipf-distributed flows, both directions, built column by column."""

from pathlib import Path

import numpy as np

_HEAD = np.dtype([("seconds", "<u4"), ("micros", "<u4"), ("captured", "<u4"), ("wire", "<u4")])
_FRAME = np.dtype([
    ("dst_mac", "V6"), ("src_mac", "V6"), ("type", ">u2"),
    ("version", "u1"), ("tos", "u1"), ("length", ">u2"), ("ident", ">u2"), ("fragment", ">u2"), ("ttl", "u1"),
    ("proto", "u1"), ("checksum", ">u2"), ("src", ">u4"), ("dst", ">u4"),
    ("sport", ">u2"), ("dport", ">u2"), ("seq", ">u4"), ("ack", ">u4"), ("flags", ">u2"), ("window", ">u2"),
    ("sum", ">u2"), ("urgent", ">u2"),
])  # fmt: skip
_PCAP = np.array([0xA1B2C3D4, 0x00040002, 0, 0, 262144, 1], "<u4")
_SERVERS, _BEGIN = 500, 1_700_000_000


def write_capture(path: Path, packets: int, *, size: int, flows: int, rate: int, seed: int = 1) -> None:
    """A pcap file of frames of `size` bytes, `rate` a second."""
    frames = make_frames(packets, size=size, flows=flows, seed=seed)
    rows = np.zeros(packets, np.dtype([("head", _HEAD), ("frame", f"V{size}")]))
    micros = np.arange(packets) * 1_000_000 // rate
    rows["head"]["seconds"], rows["head"]["micros"] = _BEGIN + micros // 1_000_000, micros % 1_000_000
    rows["head"]["captured"] = rows["head"]["wire"] = size
    rows["frame"] = frames.view(f"V{size}")[:, 0]
    with path.open("wb") as file:
        file.write(_PCAP.tobytes())
        file.write(rows.tobytes())


def make_frames(packets: int, *, size: int, flows: int, seed: int = 1) -> np.ndarray:
    """(packets, size) uint8."""
    rng = np.random.default_rng(seed)
    flow = rng.zipf(1.1, packets).astype(np.int64) % flows
    turned = rng.random(packets) < 0.4
    rows = np.zeros(packets, np.dtype([("head", _FRAME), ("rest", f"V{size - _FRAME.itemsize}")]))
    frame = rows["head"]
    frame["dst_mac"] = frame["src_mac"] = np.void(bytes.fromhex("020000000001"))
    frame["type"], frame["version"], frame["ttl"], frame["length"] = 0x0800, 0x45, 64, size - 14
    frame["proto"] = np.where(flow % 5 == 0, 17, 6)
    frame["flags"] = 0x5018
    client, server = 0x0A000000 + flow, 0x0A640000 + flow % _SERVERS
    client_port, server_port = 1024 + flow * 7 % 60000, np.where(flow % 3 == 0, 80, 443)
    for name, mine, theirs in (("src", client, server), ("dst", server, client),
                               ("sport", client_port, server_port), ("dport", server_port, client_port)):  # fmt: skip
        frame[name] = np.where(turned, theirs, mine)
    return rows.view(np.uint8).reshape(packets, size)
