"""Write the reference pages that follow from the code: `python tools/docs.py` (a test checks that they are current)."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import msgspec

from flowagent import config, sections
from flowagent.component import Settings
from flowagent.export import goflow2, netobserv, origins, schemas
from flowagent.schema import COLUMNS

DOCS = Path(__file__).parent.parent / "docs"


def columns_page() -> str:
    """The canonical columns."""
    lines = [
        "# Columns",
        "",
        "The names of columns in `replay` output, files, configuration and API. Values as exported; unknown ones",
        "are left out. In a window a column is either part of the key or merged by its rule. Elements without a",
        "column keep their IANA name (`forwardingStatus`), or `pen6876_898` where nobody registered one; repeated",
        "ones end in `_2`, `_3`.",
        "",
        "| column | type | unit | in a window | meaning |",
        "|---|---|---|---|---|",
    ]
    for column in COLUMNS.values():
        kind = column.kind if column.kind != "int" else {"u": "integer", "i": "integer", "f": "number"}[column.dtype[0]]
        kind = {"addr": "address", "mac": "MAC address", "time": "integer", "enum": "text"}.get(kind, kind)
        merge = {"key": "key", "none": "left out"}.get(column.merge, column.merge)
        doc = column.doc + (f": {', '.join(column.labels)}" if column.labels else "")
        lines.append(f"| `{column.name}` | {kind} | {column.unit} | {merge} | {doc} |")
    return "\n".join(lines) + "\n"


def configuration_page() -> str:
    """Every setting with its default."""
    parts = [
        "# Configuration",
        "",
        "One YAML file, all of it optional. A kind is chosen by its `type`; several of one type may have a `name`",
        "each. `${NAME}` and `${NAME:-default}` in values come from the environment. SIGHUP reloads: what did not",
        "change goes on, and a wrong file leaves the old configuration running. `flowagent config` can check, show",
        "and explain.",
        "",
        "```yaml",
        config.EXAMPLE.rstrip(),
        "```",
    ]
    for section in config.PACKAGES:
        for kind in config.kinds_of(section):
            parts += _settings(f"`{section}`: `type: {kind}`", config.config_class(section, kind, ""))
    named = (
        ("window", sections.Window),
        ("sampling", sections.Sampling),
        ("history", sections.History),
        ("http", sections.Http),
        ("state", sections.State),
    )
    for name, settings in named:
        parts += _settings(f"`{name}`", settings)
    return "\n".join(parts) + "\n"


def _settings(title: str, settings: type[Settings]) -> list[str]:
    docs = _attribute_docs(settings)
    rows = ["", f"## {title}", "", inspect.getdoc(settings) or "", ""]
    rows += ["| setting | default | meaning |", "|---|---|---|"]
    for field in msgspec.structs.fields(settings):
        if field.default is not msgspec.NODEFAULT:
            default = msgspec.json.encode(field.default).decode()
        elif field.default_factory is not msgspec.NODEFAULT:
            default = msgspec.json.encode(field.default_factory()).decode()
        else:
            default = "(must be given)"
        rows.append(f"| `{field.name}` | `{default}` | {docs.get(field.name, '')} |")
    return rows


def _attribute_docs(settings: type[Settings]) -> dict[str, str]:
    """The texts that stand below the fields in the source, those of its bases included."""
    docs: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        if issubclass(base, Settings) and base is not Settings:
            docs |= _own_docs(base)
    return docs


def _own_docs(settings: type[Settings]) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(settings))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            docs[field.target.id] = inspect.cleandoc(ast.literal_eval(text.value)).replace("\n", " ")
    return docs


def fields_page() -> str:
    """The fields of the output schemas."""
    lines = [
        "# Output schemas",
        "",
        "What sinks write. The schema says which fields a row has, the format how they are written.",
        "",
        "| schema | formats | fields |",
        "|---|---|---|",
        f"| `canonical` | {_formats('canonical')} | the [columns](columns.md), by their own names |",
        f"| `netobserv` | {_formats('netobserv')} | [those of NetObserv](#netobserv) |",
        f"| `goflow2` | {_formats('goflow2')} | [those of goflow2's FlowMessage](#goflow2) |",
        "",
        "What is not known of a row is left out of its message. MessagePack has maps with the same names and values as",
        "JSON.",
        "",
        "## Sampled rows",
        "",
        "Two kinds of sampling may stand between a row and the traffic. Exporters look at one packet in so many; the",
        "agent may forward a part of its rows only, and gives each of those a weight.",
        "",
        "| schema | bytes and packets | the exporter's rate | the agent's weight |",
        "|---|---|---|---|",
        "| `canonical` | as exported | `sampling_rate` | `weight`, `inclusion_prob` |",
        "| `netobserv` | times the weight | `Sampling` | `SamplingWeight`, `SamplingProbability` |",
        "| `goflow2` | times the weight | `sampling_rate` | `sampling_weight`, `sampling_probability` |",
        "",
        "Readers of NetObserv's and goflow2's flows know of no weights, so their sums are right only if these are in:",
        "`Bytes` is what the exporter sent times `SamplingWeight`, as a whole number (rounded up with the probability",
        "that the fraction says, by a coin that is a hash of the row). Do not multiply it again; what was exported is",
        "`Bytes / SamplingWeight`. The number of flows is the sum of `SamplingWeight`. The fields of the weight are",
        "there only where the rows are a sample.",
        "",
        "The exporter's rate is never multiplied in: NetObserv shows and adds up `Bytes` as observed, and readers of",
        "goflow2 take `bytes * sampling_rate`. Where an exporter has scaled its counts already, as Open vSwitch does",
        "(unless the enricher [ovsdb](openvswitch.md) has undone that),",
        "the rate is 1; where it is not known, it is left out.",
        "",
        "## netobserv",
        "",
        *_table("field | type | unit | from | meaning", map(_netobserv_row, netobserv.FIELDS.values())),
        "",
        "Names are in columns of text, which enrichment fills; an empty text is never written. IPFIX tells which",
        "flags a flow had, not which its packets had, so `SYN_ACK`, `FIN_ACK` and `RST_ACK` come only from exporters",
        "that say so in bits 8 to 10.",
        "",
        f"Published fields that are never there: {_names(netobserv.NOT_FILLED)}.",
        "",
        f"In Loki, NetObserv's console expects the labels {_names(netobserv.LOKI_LABELS)}"
        f" and {_names(f'{k}={v}' for k, v in netobserv.STATIC_LOKI_LABELS.items())}; with "
        + ", ".join(f"{feature} {_names(names)}" for feature, names in netobserv.OPTIONAL_LOKI_LABELS.items())
        + ", too.",
        "",
        "## goflow2",
        "",
        *_table("field | number | type | from | meaning", map(_goflow2_row, goflow2.FIELDS)),
        "",
        "Numbers and types are those of protobuf. Addresses are 4 bytes or 16; in JSON they are text, as are MAC",
        "addresses. Protobuf leaves out 0, too. A stream has the length of each message before it, as a varint.",
        f"`type` is one of {_names(goflow2.FLOW_TYPES)}, from 0 up.",
        "Numbers from 1000 up are for fields of users; the two there are ours.",
        "",
        f"Published fields that are never there: {_names(goflow2.NOT_FILLED)}.",
    ]
    return "\n".join(lines) + "\n"


def _formats(schema: str) -> str:
    names = {"json": "JSON", "msgpack": "MessagePack", "protobuf": "protobuf"}
    return ", ".join(f"{names[name]} (`{name}`)" for name in schemas.FORMATS[schema])


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(titles: str, rows: Iterable[str]) -> list[str]:
    return [f"| {titles} |", "|" + "---|" * (titles.count("|") + 1), *rows]


def _netobserv_row(field: origins.Field) -> str:
    return f"| `{field.name}` | {field.type} | {field.unit} | {_columns(field.origin)} | {field.doc} |"


def _goflow2_row(field: goflow2.Field) -> str:
    return f"| `{field.name}` | {field.number} | {field.type} | {_columns(field.origin)} | {field.doc} |"


def _columns(origin: origins.Origin) -> str:
    return _names(dict.fromkeys(origin.columns))


PAGES = {"columns.md": columns_page, "configuration.md": configuration_page, "fields.md": fields_page}


def main() -> None:
    """Write all pages; with --check only say which are out of date."""
    stale = [name for name, page in PAGES.items() if not (DOCS / name).exists() or (DOCS / name).read_text() != page()]
    if "--check" in sys.argv:
        sys.exit(f"out of date, run python tools/docs.py: {', '.join(stale)}" if stale else 0)
    for name in stale:
        (DOCS / name).write_text(PAGES[name]())


if __name__ == "__main__":
    main()
