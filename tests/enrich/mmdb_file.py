"""Writes files of MaxMind's format."""

from pathlib import Path

import mmdb_writer
from netaddr import IPSet

LANGUAGES = ("en", "de", "ja")
CITIES = {
    "192.0.2.0/24": ("DE", "Berlin"),
    "192.0.2.128/25": ("DE", "Potsdam"),
    "198.51.100.0/24": ("FR", None),
    "2001:db8::/32": ("JP", "Tokyo"),
    "203.0.113.7/32": (None, "Nowhere"),
}
SYSTEMS = {
    "192.0.2.0/24": (64500, "Example One"),
    "2001:db8::/32": (4200000000, "Example Two"),
    "198.51.100.0/24": (64501, None),
}


def place(country, city):
    """A record as MaxMind's."""
    record = {"continent": {"code": "EU", "names": {"en": "Europe"}}}
    if country:
        record["country"] = {"iso_code": country, "names": {"en": f"Country {country}"}}
    if city:
        record["city"] = {"names": {"en": city, "de": f"{city} (de)"}}
    return record


def system(number, name):
    """A record as MaxMind's."""
    record = {"autonomous_system_number": number}
    return record | {"autonomous_system_organization": name} if name else record


def write(path, records, *, version=6, bits=None, kind="Test"):
    """Write records by prefix, the longest last, at once into the file; `bits` of a record in the tree."""
    writer = mmdb_writer.MMDBWriter(version, kind, languages=list(LANGUAGES), ipv4_compatible=version == 6)
    for prefix, record in records.items():
        writer.insert_network(IPSet([prefix]), record)
    original = mmdb_writer.TreeWriter._adjust_record_size

    def adjust(tree):
        original(tree)
        tree.record_size = bits or tree.record_size

    mmdb_writer.TreeWriter._adjust_record_size = adjust
    try:
        writer.to_db_file(f"{path}.new")
    finally:
        mmdb_writer.TreeWriter._adjust_record_size = original
    Path(f"{path}.new").replace(path)
    return str(path)


def cities(path, **options):
    return write(path, {prefix: place(*values) for prefix, values in CITIES.items()}, **options)


def systems(path, **options):
    return write(path, {prefix: system(*values) for prefix, values in SYSTEMS.items()}, **options)
