"""Write the reference pages that follow from the code: `python tools/docs.py` (a test checks that they are current)."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from pathlib import Path

import msgspec

from flowagent import config, sections
from flowagent.component import Settings
from flowagent.schema import COLUMNS

DOCS = Path(__file__).parent.parent / "docs"


def columns_page() -> str:
    """The canonical columns."""
    lines = [
        "# Columns",
        "",
        "The names of columns in `replay` output, files, configuration and API. Values as exported; unknown ones",
        "are left out. In a window a column is either part of the key or merged by its rule. Elements without a",
        "column keep their IANA name (`ipClassOfService`), or `pen6876_898` where nobody registered one; repeated",
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
    """The texts that stand below the fields in the source."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(settings))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            docs[field.target.id] = inspect.cleandoc(ast.literal_eval(text.value)).replace("\n", " ")
    return docs


PAGES = {"columns.md": columns_page, "configuration.md": configuration_page}


def main() -> None:
    """Write all pages; with --check only say which are out of date."""
    stale = [name for name, page in PAGES.items() if not (DOCS / name).exists() or (DOCS / name).read_text() != page()]
    if "--check" in sys.argv:
        sys.exit(f"out of date, run python tools/docs.py: {', '.join(stale)}" if stale else 0)
    for name in stale:
        (DOCS / name).write_text(PAGES[name]())


if __name__ == "__main__":
    main()
