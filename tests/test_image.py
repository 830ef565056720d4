"""The image, built and run without a container engine, and the unit for hosts."""

import configparser
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import flowagent
from flowagent.pipeline import DRAIN_SECONDS

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"
UNIT = ROOT / "deploy" / "flowagent.service"


def image_tool():
    spec = importlib.util.spec_from_file_location("image", ROOT / "tools" / "image.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_dockerfile_is_about_this_version_and_its_extras():
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE.read_text("utf-8"), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert arguments["VERSION"] == flowagent.__version__
    assert set(arguments["EXTRAS"].split(",")) <= extras.keys()


def test_the_dockerfile_has_stages_of_one_base_and_ends_as_the_user_of_the_pods():
    said = image_tool().instructions(DOCKERFILE.read_text("utf-8"))
    bases = [line.text.partition(" ")[0] for line in said if line.word == "FROM"]
    assert len(bases) == 2
    assert len(set(bases)) == 1, "the environment that is copied is of the other's Python"
    (user,) = (line.text for line in said if line.word == "USER")
    manifest = (ROOT / "deploy" / "daemonset.yaml").read_text("utf-8")
    assert re.findall(r"runAsUser: (\d+)", manifest) == [user]


@pytest.mark.service("setpriv", "unshare", "git", "netns")
def test_the_image_builds_and_runs_read_only_without_rights():
    """Every RUN line of the Dockerfile, without an engine; `netns` stands for the right to make namespaces."""
    done = subprocess.run(
        [sys.executable, "tools/image.py", ""], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = [f"{line.word} {line.text}" for line in image_tool().instructions(DOCKERFILE.read_text("utf-8"))]
    assert [line for line in done.stdout.splitlines() if line.startswith("RUN ")] == [
        line for line in wanted if line.startswith("RUN ")
    ]
    assert done.stdout.splitlines()[-1] == "drained and ended with 0: yes"


def unit(tmp_path):
    """The unit, with a program that there is here."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text("utf-8").replace("/opt/flowagent/bin/flowagent", sys.executable))
    return path


@pytest.mark.service("systemd-analyze")
def test_systemd_takes_the_unit(tmp_path):
    command = ["systemd-analyze", "verify", "--man=no", unit(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.service("systemd-analyze")
def test_the_unit_is_confined(tmp_path):
    """At most 2.0 of 10 in the terms of systemd; a service as it comes has 9.6."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", unit(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_the_unit_leaves_time_to_drain_and_can_reload():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string(UNIT.read_text("utf-8"))
    service = parser["Service"]
    assert int(service["TimeoutStopSec"]) >= DRAIN_SECONDS + 5
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert (service["DynamicUser"], service["StateDirectory"], service["ProtectSystem"]) == (
        "yes",
        "flowagent",
        "strict",
    )
    assert service["CapabilityBoundingSet"] == ""
