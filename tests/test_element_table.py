"""The table of information elements says what IANA says, and can be remade."""

import csv
import runpy
import sys
from importlib.resources import files
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "elements.py"

TYPES = {
    *(f"unsigned{bits}" for bits in (8, 16, 32, 64, 256)),
    *(f"signed{bits}" for bits in (8, 16, 32, 64)),
    *(f"dateTime{unit}" for unit in ("Seconds", "Milliseconds", "Microseconds", "Nanoseconds")),
    *("float32", "float64", "boolean", "macAddress", "octetArray", "string", "ipv4Address", "ipv6Address"),
    *("basicList", "subTemplateList", "subTemplateMultiList"),
}

# Elements that the decoders or the canonical columns rely on.
ANCHORS = {
    1: ("octetDeltaCount", "unsigned64"),
    2: ("packetDeltaCount", "unsigned64"),
    4: ("protocolIdentifier", "unsigned8"),
    5: ("ipClassOfService", "unsigned8"),
    6: ("tcpControlBits", "unsigned16"),
    7: ("sourceTransportPort", "unsigned16"),
    8: ("sourceIPv4Address", "ipv4Address"),
    10: ("ingressInterface", "unsigned32"),
    11: ("destinationTransportPort", "unsigned16"),
    12: ("destinationIPv4Address", "ipv4Address"),
    14: ("egressInterface", "unsigned32"),
    21: ("flowEndSysUpTime", "unsigned32"),
    22: ("flowStartSysUpTime", "unsigned32"),
    27: ("sourceIPv6Address", "ipv6Address"),
    28: ("destinationIPv6Address", "ipv6Address"),
    34: ("samplingInterval", "unsigned32"),
    48: ("samplerId", "unsigned8"),
    50: ("samplerRandomInterval", "unsigned32"),
    56: ("sourceMacAddress", "macAddress"),
    61: ("flowDirection", "unsigned8"),
    82: ("interfaceName", "string"),
    83: ("interfaceDescription", "string"),
    85: ("octetTotalCount", "unsigned64"),
    86: ("packetTotalCount", "unsigned64"),
    130: ("exporterIPv4Address", "ipv4Address"),
    136: ("flowEndReason", "unsigned8"),
    138: ("observationPointId", "unsigned64"),
    144: ("exportingProcessId", "unsigned32"),
    149: ("observationDomainId", "unsigned32"),
    150: ("flowStartSeconds", "dateTimeSeconds"),
    151: ("flowEndSeconds", "dateTimeSeconds"),
    152: ("flowStartMilliseconds", "dateTimeMilliseconds"),
    153: ("flowEndMilliseconds", "dateTimeMilliseconds"),
    154: ("flowStartMicroseconds", "dateTimeMicroseconds"),
    155: ("flowEndMicroseconds", "dateTimeMicroseconds"),
    156: ("flowStartNanoseconds", "dateTimeNanoseconds"),
    157: ("flowEndNanoseconds", "dateTimeNanoseconds"),
    158: ("flowStartDeltaMicroseconds", "unsigned32"),
    159: ("flowEndDeltaMicroseconds", "unsigned32"),
    160: ("systemInitTimeMilliseconds", "dateTimeMilliseconds"),
    161: ("flowDurationMilliseconds", "unsigned32"),
    176: ("icmpTypeIPv4", "unsigned8"),
    192: ("ipTTL", "unsigned8"),
    210: ("paddingOctets", "octetArray"),
    218: ("tcpSynTotalCount", "unsigned64"),
    225: ("postNATSourceIPv4Address", "ipv4Address"),
    230: ("natEvent", "unsigned8"),
    239: ("biflowDirection", "unsigned8"),
    302: ("selectorId", "unsigned64"),
    304: ("selectorAlgorithm", "unsigned16"),
    305: ("samplingPacketInterval", "unsigned32"),
    306: ("samplingPacketSpace", "unsigned32"),
    307: ("samplingTimeInterval", "unsigned32"),
    308: ("samplingTimeSpace", "unsigned32"),
    309: ("samplingSize", "unsigned32"),
    310: ("samplingPopulation", "unsigned32"),
    311: ("samplingProbability", "float64"),
    313: ("ipHeaderPacketSection", "octetArray"),
    315: ("dataLinkFrameSection", "octetArray"),
    351: ("layer2SegmentId", "unsigned64"),
    352: ("layer2OctetDeltaCount", "unsigned64"),
    368: ("ingressInterfaceType", "unsigned32"),
}

# IANA's layout: every sort of row that is not an element, and quoted text over two lines.
REGISTRY = """\
ElementID,Name,Abstract Data Type,Data Type Semantics,Status,Description,\
Units,Range,Additional Information,Reference,Revision,Date
0,Reserved,,,,,,,,,,
2,packetDeltaCount,unsigned64,deltaCounter,current,"packets,
in two lines",packets,,,,0,
1,octetDeltaCount,unsigned64,deltaCounter,current,octets,octets,,,,0,
34,samplingInterval,unsigned32,quantity,deprecated,"one ""in"" n",packets,,,,0,
65-69,Assigned for NetFlow v9 compatibility,,,,,,,,,,
416,,,,deprecated,,,,,,,
534-32767,Unassigned,,,,,,,,,,
"""


@pytest.fixture(scope="module")
def rows():
    with files("flowagent").joinpath("data/ipfix-elements.csv").open(encoding="ascii", newline="") as lines:
        header, *rows = csv.reader(lines)
    assert header == ["pen", "id", "name", "type"]
    return [(int(pen), int(number), name, kind) for pen, number, name, kind in rows]


def test_numbers_are_unique_and_sorted(rows):
    keys = [row[:2] for row in rows]
    assert keys == sorted(set(keys))
    assert all(0 < number < 0x8000 for _, number in keys)


def test_names_are_unique_words(rows):
    names = [name for pen, _, name, _ in rows if pen == 0]
    assert len(names) == len(set(names))
    assert all(name.isalnum() for _, _, name, _ in rows)


def test_types_are_those_of_the_registry(rows):
    assert {kind for *_, kind in rows} <= TYPES


def test_registry_is_whole(rows):
    """The numbers without an element are the ones that IANA left so."""
    numbers = {number for pen, number, *_ in rows if pen == 0}
    assert set(range(1, 534)) - numbers == {*range(65, 70), 97, *range(105, 128), 416, 419}


@pytest.mark.parametrize("number", ANCHORS)
def test_anchor(rows, number):
    assert (0, number, *ANCHORS[number]) in rows


def test_tunnel_elements_of_open_vswitch(rows):
    elements = {number: (name, kind) for pen, number, name, kind in rows if pen == 6876}
    assert set(elements) == set(range(891, 899))
    assert elements[892] == ("tunnelKey", "octetArray")
    assert elements[898] == ("virtualObsID", "string")


def test_tool_keeps_named_elements_only(tmp_path, monkeypatch, capsys):
    registry = tmp_path / "registry.csv"
    registry.write_text(REGISTRY)
    monkeypatch.setattr(sys, "argv", [str(TOOL), str(registry)])
    runpy.run_path(str(TOOL), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[:5] == [
        "pen,id,name,type",
        "0,1,octetDeltaCount,unsigned64",
        "0,2,packetDeltaCount,unsigned64",
        "0,34,samplingInterval,unsigned32",
        "6876,891,tunnelType,unsigned8",
    ]
