"""What the tests share: which programs a test needs, and the running things that live tests look at."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from live.agent import Agent
from live.netns import Netns
from live.prometheus import Prometheus

# How long an example takes says more of the machine than of the code.
settings.register_profile("flowagent", deadline=None)
settings.load_profile("flowagent")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `service` where something it names is missing, or fail it where nothing may be missing.

    It names programs, devices (by path) and `netns` for the right to make network namespaces.
    """
    needs = [need for marker in item.iter_markers("service") for need in marker.args]
    missing = [need for need in needs if not _there(need)]
    if not missing:
        return
    reason = f"needs {', '.join(missing)}"
    if os.environ.get("FLOWAGENT_REQUIRE_SERVICES") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@cache
def _there(need: str) -> bool:
    if need.startswith("/"):
        return os.access(need, os.R_OK | os.W_OK)
    if need == "netns":
        return _can_make_namespaces()
    return shutil.which(need) is not None


def _can_make_namespaces() -> bool:
    try:
        namespace = Netns()
    except (OSError, subprocess.CalledProcessError):
        return False
    namespace.delete()
    return True


@pytest.fixture(scope="module")
def make_netns() -> Iterator[Callable[[], Netns]]:
    """Make network namespaces, which end with the module, and with them what runs there."""
    made: list[Netns] = []

    def make() -> Netns:
        made.append(Netns())
        return made[-1]

    yield make
    for namespace in reversed(made):
        namespace.delete()


@pytest.fixture
def make_agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Make agents (arguments: see `Agent`), each in a directory of its own, and start them unless told otherwise."""
    made: list[Agent] = []

    def make(*, start=True, **settings) -> Agent:
        made.append(Agent(tmp_path / f"agent{len(made)}", **settings))
        return made[-1].start() if start else made[-1]

    yield make
    for agent in made:
        agent.kill()
        print(agent.log)  # noqa: T201 - pytest shows it where the test failed


@pytest.fixture
def make_prometheus(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """Start Prometheus servers that scrape what they are told to."""
    made: list[Prometheus] = []

    def make(*targets: str) -> Prometheus:
        made.append(Prometheus(tmp_path / f"prometheus{len(made)}", targets))
        return made[-1].start()

    yield make
    for server in made:
        server.stop()
