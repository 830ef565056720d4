"""The captures in tests/data and what is known to be in them."""

import json
import struct
from functools import cache
from pathlib import Path

from flowagent.batch import Batch
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.pcap import captures

DATA = Path(__file__).parents[1] / "data" / "captures"
NAMES = sorted(str(p.relative_to(DATA)).removesuffix(".truth.json") for p in DATA.rglob("*.truth.json"))


NOTHING = {
    "sums": {}, "by_proto": {}, "distinct_5tuples": 0, "records_without_ip": 0, "templates": None,
    "time": dict.fromkeys(("min_start_ms", "max_start_ms", "min_end_ms", "max_end_ms")),
}  # fmt: skip
"""What a truth file leaves out where there are no flows."""


@cache
def truth(name: str) -> dict:
    return NOTHING | json.loads((DATA / f"{name}.truth.json").read_text())


@cache
def datagrams(name: str) -> tuple[Datagrams, ...]:
    """A capture's datagrams, in as many parts as it has files."""
    known = truth(name)
    files = known.get("files") or [known["file"]]
    return tuple(part for c in captures([(DATA / name).parent / f for f in files]) for part in c.datagrams())


@cache
def payloads(name: str) -> tuple[bytes, ...]:
    return tuple(part.payload(i) for part in datagrams(name) for i in range(len(part)))


def decoded(name: str) -> tuple[Decoder, Batch]:
    """All of a capture, in the order of the wire, and who decoded it."""
    decoder = Decoder(ordered=True)
    return decoder, Batch.concat([decoder.feed(part) for part in datagrams(name)])


def is_sflow(payload: bytes) -> bool:
    return payload[:4] == struct.pack("!I", 5)
