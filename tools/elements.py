"""Make `flowagent/data/ipfix-elements.csv` from the registry file that IANA publishes.

    python tools/elements.py ipfix-information-elements.csv > flowagent/data/ipfix-elements.csv

The table is data, not code, so that a new registry means one command and a diff
that shows only what IANA added. Only facts are kept: number, name and type.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

IANA = 0
VMWARE = 6876


class Element(NamedTuple):
    """One information element; sorts by enterprise and number, as the table does."""

    pen: int
    id: int
    name: str
    type: str


# Open vSwitch describes tunnels with elements of VMware, who publish no registry.
ENTERPRISE = (
    Element(VMWARE, 891, "tunnelType", "unsigned8"),
    Element(VMWARE, 892, "tunnelKey", "octetArray"),
    Element(VMWARE, 893, "tunnelSourceIPv4Address", "ipv4Address"),
    Element(VMWARE, 894, "tunnelDestinationIPv4Address", "ipv4Address"),
    Element(VMWARE, 895, "tunnelProtocolIdentifier", "unsigned8"),
    Element(VMWARE, 896, "tunnelSourceTransportPort", "unsigned16"),
    Element(VMWARE, 897, "tunnelDestinationTransportPort", "unsigned16"),
    Element(VMWARE, 898, "virtualObsID", "string"),
)


def registered(lines: Iterable[str]) -> Iterator[Element]:
    """Yield the elements of IANA's CSV that a record can carry.

    Reserved and unassigned numbers have no type, nor have deprecated ones whose
    name was withdrawn; ranges are never elements. A deprecated element that kept
    its name stays: exporters still send samplingInterval.
    """
    for row in csv.DictReader(lines):
        number, name, kind = (row[column].strip() for column in ("ElementID", "Name", "Abstract Data Type"))
        if number.isdecimal() and name and kind:
            yield Element(IANA, int(number), name, kind)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the table of information elements as CSV.")
    parser.add_argument("registry", type=Path, help="IANA's ipfix-information-elements.csv")
    with parser.parse_args().registry.open(encoding="utf-8-sig", newline="") as lines:
        elements = sorted((*registered(lines), *ENTERPRISE))
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(Element._fields)
    table.writerows(elements)


if __name__ == "__main__":
    main()
