"""The house's rules that no linter knows."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "flowagent").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
BESIDE = [
    ROOT / "hatch_build.py",
    *(path for name in ("tests", "tools", "benchmarks") for path in (ROOT / name).rglob("*.py")),
]
SOURCES = sorted([*MODULES, *BESIDE])
MAX_FILE, MAX_FUNCTION = 400, 50
# Tests of more than one module, and what they are about instead. Those of tests/live run whole programs.
OF_NO_MODULE = {
    "tests/web/test_openapi.py": "flowagent/web/openapi.json",
    "tests/test_deploy_clickhouse.py": "the rest of test_deploy.py, for the topic of Kafka",
    "tests/test_image.py": "Dockerfile, tools/image.py and deploy/flowagent.service",
    "tests/test_manifests.py": "deploy/daemonset.yaml and deploy/kubernetes",
    "tests/test_accounting.py": "the identity over decoder, pipeline and sinks",
    "tests/sampling/test_acceptance.py": "what samples and their estimates promise, as statistics",
    "tests/fuzz/test_fuzz.py": "fuzz/fuzz_decoders.py",
    "tests/test_benchmarks.py": "benchmarks/",
    "tests/test_config_values.py": "the rest of test_config.py",
    "tests/test_deploy.py": "deploy/",
    "tests/test_docs.py": "docs/",
    "tests/export/test_tls.py": "flowagent/tls.py, with a sink that connects",
    "tests/test_estimates_coverage.py": "the rest of test_estimates.py, over sampled captures",
    "tests/test_element_table.py": "the table and tools/elements.py",
    "tests/test_hatch_build.py": "hatch_build.py",
    "tests/test_house.py": "the house",
    "tests/test_imports.py": "who imports whom",
    "tests/test_outlet_spool.py": "the rest of test_outlet.py",
    "tests/test_stages_faults.py": "the rest of test_stages.py",
    "tests/ui/test_layouts.py": "the layouts of flowagent/web/static, without a page",
    "tests/ui/test_views.py": "flowagent/web/static, in a browser",
    "tests/aggregate/test_policy_memory.py": "the rest of test_policy.py",
    "tests/test_reload.py": "the rest of test_pipeline.py",
    "tests/test_resume.py": "the rest of test_pipeline.py, about sources that read from a log",
}
# Modules without a test file of their own name, and where they are tested.
TESTED_ELSEWHERE = {
    "flowagent/__init__.py": "test_cli.py",
    "flowagent/__main__.py": "test_cli.py",
    "flowagent/delivery.py": "test_outlet_spool.py",
    "flowagent/elements.py": "test_element_table.py",
    "flowagent/enrich/ovsdb.py": "enrich/test_enrich_ovsdb.py",
    "flowagent/export/encoder.py": "export/test_schemas.py",
    "flowagent/export/ipfix.py": "export/test_export_ipfix.py",
    "flowagent/export/parquet.py": "export/test_export_parquet.py",
    "flowagent/history/query.py": "history/test_history_query.py",
    "flowagent/sampling/peers.py": "sampling/test_sampling_peers.py",
    "flowagent/sections.py": "test_config.py",
    "flowagent/tls.py": "export/test_tls.py",
    "flowagent/ingest/snapshot.py": "ingest/test_udp.py",
    "flowagent/ingest/report.py": "ingest/test_udp.py",
}


def name(path):
    return str(path.relative_to(ROOT))


def its_test(path):
    """The test file that belongs to a module."""
    inner = path.relative_to(ROOT / "flowagent")
    return ROOT / "tests" / inner.parent / f"test_{inner.name}"


def ids(paths):
    return {"argvalues": paths, "ids": [name(path) for path in paths]}


@pytest.mark.parametrize("path", **ids(SOURCES))
def test_files_are_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= MAX_FILE


@pytest.mark.parametrize("path", **ids(MODULES))
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            assert node.end_lineno - first < MAX_FUNCTION, f"{node.name} in line {node.lineno}"


@pytest.mark.parametrize("path", **ids(SOURCES))
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize("path", **ids([p for p in TESTS if "live" not in p.parts]))
def test_every_test_file_has_its_module_or_a_reason(path):
    inner = path.relative_to(ROOT / "tests")
    words = path.stem.removeprefix("test_")
    # Where another directory has a test of the same name, the directory's name comes first.
    names = {words, words.removeprefix(f"{inner.parent.name}_")}
    modules = [ROOT / "flowagent" / inner.parent / f"{word}.py" for word in names]
    assert any(module.exists() for module in modules) or OF_NO_MODULE.get(name(path)) or _states_a_reason(path)


def _states_a_reason(path):
    """Tests of several modules say at their head what they are about."""
    head = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    return path.parent.name in ("ingest", "generate") and len(head) > 40


def test_the_reasons_are_about_files_that_exist():
    listed = [*OF_NO_MODULE, *TESTED_ELSEWHERE, *(f"tests/{test}" for test in TESTED_ELSEWHERE.values())]
    assert [path for path in listed if not (ROOT / path).exists()] == []


PARTS = ("flowagent", "aggregate", "sampling", "history", "export", "web")


@pytest.mark.parametrize("path", **ids([p for p in MODULES if p.parent.name in PARTS]))
def test_every_module_has_a_test_file(path):
    if path.name == "__init__.py" or name(path) in TESTED_ELSEWHERE:
        return
    assert its_test(path).exists()


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / path for path in done.stdout.split("\0") if path]


def test_no_paths_of_one_machine():
    # A home directory, a temporary one, a mount: true on one machine only.
    places = ("home", "root", "Users", "tmp", "work", "mnt")
    pattern = re.compile(rf"(?<![\w.:/~}}]){re.escape(os.sep)}(?:{'|'.join(places)})/\w+/")
    kinds = {".py", ".toml", ".md", ".yaml", ".yml", ".sh", ".txt", ""}
    texts = [path for path in tracked() if path.suffix in kinds and path.is_file()]
    found = {}
    for path in texts:
        hits = pattern.findall(path.read_text("utf-8", "replace"))
        if hits:
            found[name(path)] = hits[:3]
    assert found == {}


@pytest.mark.parametrize("path", **ids(MODULES))
def test_queues_are_channels(path):
    if path.name != "channel.py":
        assert not re.search(r"\bQueue\(", path.read_text("utf-8"))


@pytest.mark.parametrize("path", **ids(MODULES))
def test_sinks_neither_sleep_nor_retry(path):
    if path.parent.name == "export":
        assert "sleep(" not in path.read_text("utf-8")
