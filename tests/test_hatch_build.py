"""hatch_build.py: what is fetched, when, and what becomes of an installation that cannot fetch it."""

import importlib.util
import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
LOCK = json.loads((ROOT / "package-lock.json").read_text("utf-8"))
PACKAGE = json.loads((ROOT / "package.json").read_text("utf-8"))


@pytest.fixture
def build(tmp_path):
    """The module, with a place for the libraries that is not the checkout's."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.VENDOR = tmp_path / "vendor"
    module.is_current.__defaults__ = module.bring.__defaults__ = (module.VENDOR,)
    return module


def hook(build):
    """As hatchling has it, and the warnings that it shows."""
    warnings = []
    made = build.VendorHook()
    made.app = SimpleNamespace(display_warning=warnings.append)
    return made, warnings


def modules(build, directory):
    """What npm would have made."""
    for package, files in build.FILES.items():
        for file in files:
            path = directory / "node_modules" / package / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{package} {file}")
    return directory / "node_modules"


def test_the_lock_file_names_versions_and_hashes_but_no_addresses():
    packages = {name: entry for name, entry in LOCK["packages"].items() if name}
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert not any("resolved" in entry for entry in packages.values())
    assert "omit-lockfile-registry-resolved=true" in (ROOT / ".npmrc").read_text("utf-8").splitlines()
    wanted = PACKAGE["dependencies"] | PACKAGE["devDependencies"]
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted


def test_only_what_is_used_is_taken_and_tests_tools_are_not(build):
    assert set(build.FILES) == set(PACKAGE["dependencies"])
    assert all("LICENSE" in files for files in build.FILES.values())
    assert not set(build.FILES) & set(PACKAGE["devDependencies"])


def test_files_are_brought_once(build, monkeypatch):
    calls = []
    monkeypatch.setattr(build, "install", lambda place, *words: calls.append(words) or modules(build, place))
    made, warnings = hook(build)
    assert made.dependencies() == [build.NODE]
    made.initialize("standard", {})
    made.initialize("standard", {})
    assert (calls, warnings) == ([("--omit=dev",)], [])
    assert made.dependencies() == []
    assert (build.VENDOR / "uplot.LICENSE.txt").read_text() == "uplot LICENSE"
    (build.VENDOR / build.STAMP).write_text("of another lock file")
    made.initialize("standard", {})
    assert len(calls) == 2


def unreachable(*_):
    raise unreachable.error


@pytest.mark.parametrize("wanted", ["", "require", "skip"])
def test_where_npm_cannot_be_reached(build, monkeypatch, wanted):
    unreachable.error = build.Missing("npm ci ended with 1")
    monkeypatch.setattr(build, "install", unreachable)
    monkeypatch.setenv("FLOWAGENT_UI", wanted)
    made, warnings = hook(build)
    if wanted == "require":
        with pytest.raises(build.Missing, match="npm ci ended with 1"):
            made.initialize("standard", {})
    else:
        made.initialize("standard", {})
    assert warnings == ([] if wanted else ["the web UI is left out: npm ci ended with 1"])
    assert (made.dependencies() == []) == (wanted == "skip")
    assert not build.VENDOR.exists()


def test_what_was_there_stays_where_npm_fails(build, monkeypatch):
    build.VENDOR.mkdir()
    (build.VENDOR / "old.js").write_text("old")
    unreachable.error = build.Missing("no")
    monkeypatch.setattr(build, "install", unreachable)
    made, _ = hook(build)
    made.initialize("standard", {})
    assert (build.VENDOR / "old.js").exists()


def test_the_build_takes_what_git_ignores_along():
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["artifacts"] == ["flowagent/web/static/vendor"]
    assert "custom" in targets["wheel"]["hooks"]
    copied = (ROOT / "Dockerfile").read_text("utf-8")
    kept = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for name in ("hatch_build.py", "package.json", "package-lock.json", ".npmrc"):
        assert f" {name} " in copied
        assert f"!{name}" in kept
