"""Who may import whom, read from the sources: core knows nothing of kinds, and kinds nothing of one another."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "flowagent"
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
KINDS = {"ingest", "sampling", "aggregate", "enrich", "export"}
# These put the parts together, so they may know all of them.
COMPOSITION = {
    "pipeline.py", "stages.py", "agent.py", "cli.py", "replay.py", "estimates.py", "__init__.py", "__main__.py",
}  # fmt: skip
# Third-party clients and the files that use them; nothing else may.
CLIENTS = {
    "aiohttp": {"enrich/kube_client.py", "export/post.py", "web/answers.py", "web/policies.py", "web/server.py"},
    "aiokafka": {"brokers.py", "export/producer.py", "ingest/consumer.py", "ingest/kafka.py"},
    "cramjam": {"export/push.py"},
    "google": {"export/prometheus_protobuf.py"},
    "lark": {"filters.py"},
    "msgpack": {"ingest/objects.py"},
    "prometheus_client": {"export/prometheus.py"},
    "pyarrow": {"export/parquet.py", "ingest/parquet.py"},
    "zstandard": {"export/file.py", "frames.py", "ingest/capfile.py", "ingest/ndjson.py"},
    "yaml": {"config.py", "cli.py"},
    "typer": {"cli.py", "ovs_cli.py"},
    "rich": {"cli.py", "estimates.py"},
}
# Clients that only an extra installs.
EXTRAS = {"pyarrow": "parquet"}
EVERYWHERE = {"numpy", "msgspec"}
every_module = pytest.mark.parametrize("path", MODULES, ids=str)


def package(path):
    """The part of flowagent a file belongs to; "" is the core."""
    return path.parts[0] if len(path.parts) > 1 else ""


def imports(path):
    """Every module that a file imports, wherever in it, as full names."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(path):
    """Parts of flowagent that a file imports: "" for the core, else the package."""
    parts = set()
    for name in imports(path):
        words = name.split(".")
        if words[0] == "flowagent" and len(words) > 1:
            parts.add(words[1] if (ROOT / words[1]).is_dir() else "")
    return parts


def foreign(path):
    """Third-party packages that a file imports."""
    tops = {name.split(".")[0] for name in imports(path)}
    return tops - sys.stdlib_module_names - {"flowagent", "__future__"}


@every_module
def test_core_imports_core_only(path):
    if package(path) == "" and path.name not in COMPOSITION:
        assert own(path) <= {""}


@every_module
def test_kinds_do_not_import_one_another(path):
    if package(path) in KINDS:
        assert own(path) <= {"", package(path)}


@every_module
def test_the_web_gets_its_store_as_an_argument(path):
    if package(path) == "web":
        assert own(path) <= {"", "web"}


@every_module
def test_the_generator_stands_alone(path):
    if package(path) == "generate":
        assert own(path) <= {"", "generate"}


@every_module
def test_nothing_imports_the_composition(path):
    above = {
        "stages.py": {"agent", "cli", "replay", "estimates", "pipeline"},
        "pipeline.py": {"agent", "cli", "replay", "estimates"},
        "replay.py": {"agent", "cli", "estimates", "pipeline"},
        "estimates.py": {"agent", "cli", "replay", "pipeline"},
        "agent.py": {"cli", "replay", "estimates"},
        "cli.py": {"__main__"},
        "__main__.py": set(),
    }.get(str(path), {"agent", "cli", "replay", "estimates", "pipeline"})
    assert not imports(path) & {f"flowagent.{name}" for name in above}


@every_module
def test_the_pipeline_names_no_kind(path):
    if path.name == "pipeline.py":
        kinds = {name for name in imports(path) if name.split(".")[1:2] and name.split(".")[1] in {"ingest", "export"}}
        assert kinds == set()


@every_module
def test_third_party_packages_are_imported_where_they_are_used_only(path):
    for name in foreign(path) - EVERYWHERE:
        assert name in CLIENTS, f"{name} is not a dependency that was chosen"
        assert str(path) in CLIENTS[name]


def test_every_client_is_still_used_where_it_says():
    used = {name: {str(path) for path in MODULES if name in foreign(path)} for name in CLIENTS}
    assert used == CLIENTS


@every_module
def test_decoding_touches_neither_sockets_nor_clocks_nor_the_log(path):
    # The decoders proper: bytes and times come in as arguments. (values.py asks `socket` what an address means.)
    sources = {
        "udp.py", "recvmmsg.py", "packets.py", "packetring.py", "snapshot.py", "values.py", "__init__.py", "kafka.py",
        "consumer.py", "file.py", "filebook.py",
    }  # fmt: skip
    if package(path) == "ingest" and path.name not in sources:
        assert not imports(path) & {"socket", "asyncio", "time", "logging", "random", "os", "threading"}


@every_module
def test_stages_touch_neither_sockets_nor_clocks(path):
    if package(path) in {"aggregate", "sampling"} or path.name in {"prepare.py", "grouping.py", "batch.py"}:
        assert not imports(path) & {"socket", "asyncio", "time", "random", "os", "threading"}


def packages(requirements):
    """The names of what these lines of pyproject.toml install."""
    return {re.match(r"[\w-]+", text)[0].lower().replace("-", "_") for text in requirements}


def test_what_is_installed_is_what_is_imported():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text("utf-8"))["project"]
    imported = {"google": "protobuf", "yaml": "pyyaml"}
    always = (set(CLIENTS) | EVERYWHERE) - set(EXTRAS)
    assert packages(project["dependencies"]) == {imported.get(name, name) for name in always}
    extras = {extra: packages(lines) for extra, lines in project["optional-dependencies"].items()}
    development = extras.pop("dev")
    del extras["bench"]  # only benchmarks/accuracy.py draws
    assert extras == {extra: {name for name in EXTRAS if EXTRAS[name] == extra} for extra in EXTRAS.values()}
    assert set(EXTRAS) <= development


@every_module
def test_what_an_extra_installs_is_imported_late(path):
    """Without it, everything else works."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    early = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    early |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in early} & set(EXTRAS)
