"""What elements mean to the columns: names, kinds, and that every mapped element fits its column."""

import pytest

from flowagent.elements import (
    COLUMN,
    ICMP_TYPE_CODE,
    MPLS_TOP_LABEL,
    TIMES,
    VMWARE_PEN,
    column_kind,
    element,
    extra_name,
    type_kind,
)
from flowagent.ingest.fields import TIME_CONVERTERS
from flowagent.schema import COLUMNS


def test_registered_elements():
    assert element(0, 1) == (0, 1, "octetDeltaCount", "unsigned64")
    assert element(VMWARE_PEN, 898).name == "virtualObsID"


def test_an_element_that_nobody_registered_is_opaque():
    assert element(1234, 56) == (1234, 56, "pen1234_56", "octetArray")
    assert element(0, 32000).name == "pen0_32000"


def test_names_of_extra_columns():
    assert extra_name(element(0, 82)) == "interfaceName"
    assert extra_name(element(VMWARE_PEN, 898)) == "pen6876_898"
    assert extra_name(element(1234, 56)) == "pen1234_56"


@pytest.mark.parametrize(("key", "column"), [*COLUMN.items(), *((k, t.column) for k, t in TIMES.items())])
def test_every_mapped_element_is_registered_and_fits_its_column(key, column):
    kinds = {type_kind(element(*key).type), COLUMNS[column].kind}
    assert not element(*key).name.startswith("pen")
    # A time may come as a number of milliseconds or microseconds, a tunnel key as bytes.
    assert len(kinds) == 1 or kinds in ({"time", "int"}, {"bytes", "int"})


@pytest.mark.parametrize("key", [(0, n) for n in (85, 86, 135, 218, 219, 220, 221, 222, 223, 353, 354, 358)])
def test_totals_of_the_whole_exporter_fill_no_column(key):
    assert key not in COLUMN
    assert "Total" in element(*key).name


def test_every_time_has_a_converter():
    assert {time.encoding for time in TIMES.values()} == set(TIME_CONVERTERS)


@pytest.mark.parametrize("key", [*ICMP_TYPE_CODE, MPLS_TOP_LABEL])
def test_elements_of_their_own_handling_are_registered(key):
    assert not element(*key).name.startswith("pen")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bytes", "int"), ("src_addr", "addr"), ("src_mac", "mac"), ("start_ns", "time"), ("sampling_source", "enum"),
        ("src_addr_2", "addr"), ("bytes_3", "int"), ("interfaceName", "text"), ("interfaceName_2", "text"),
        ("octetTotalCount", "int"), ("bgpNextHopIPv4Address", "addr"), ("postSourceMacAddress", "mac"),
        ("basicList", "bytes"), ("tcpOptionsFull", "bytes"), ("samplingProbability", "int"),
        ("observationTimeSeconds", "time"),
        ("pen6876_898", "text"), ("pen6876_892", "bytes"), ("pen1234_56", "bytes"), ("pen1234_56_2", "bytes"),
        ("penguin", "int"), ("never_heard_of", "int"),
    ],
)  # fmt: skip
def test_kinds_of_columns(name, kind):
    assert column_kind(name) == kind
