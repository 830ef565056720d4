"""The browser, and the double that it looks at."""

import asyncio
import importlib.util
import os
import threading
from pathlib import Path

import pytest
from aiohttp import web
from ui.double import Double

ROOT = Path(__file__).parents[2]


class Served(Double):
    """The double on a port of the loopback, in a thread of its own."""

    def __init__(self):
        super().__init__()
        self.origin = None
        self._loop = asyncio.new_event_loop()
        self._runner = None
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def start(self):
        self._wait(self._listen())
        return self

    def stop(self):
        self._wait(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self):
        self._runner = web.AppRunner(self.app(), shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.origin = f"http://127.0.0.1:{self._runner.addresses[0][1]}"


@pytest.fixture(scope="module")
def served():
    double = Served().start()
    yield double
    double.stop()


@pytest.fixture
def double(served):
    """The double as it was at first; streams end when it next writes to them."""
    for name, value in vars(Double()).items():
        if name != "streams":
            setattr(served, name, value)
    return served


@pytest.fixture(scope="module")
def chromium(served, tmp_path_factory):
    from ui.browser import Browser, pictures_directory

    browser = Browser(served.origin, pictures_directory(tmp_path_factory.getbasetemp() / "screenshots"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium, double):
    """The browser, looking as at first; afterwards nothing may have complained or gone elsewhere."""
    chromium.system_theme("light")
    chromium.driver.get(chromium.origin + "/ui/theme.js")
    chromium.run("localStorage.clear(); sessionStorage.clear()")
    chromium.driver.get("about:blank")
    chromium.complaints()
    chromium.expected = ()
    yield chromium
    assert chromium.foreign() == []
    assert [text for text in chromium.complaints() if not any(word in text for word in chromium.expected)] == []


def hatch_build():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The source of axe-core, by the lock file."""
    build = hatch_build()
    try:
        modules = build.install(tmp_path_factory.mktemp("npm"))
    except build.Missing as error:
        if os.environ.get("FLOWAGENT_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(f"axe-core cannot be had: {error}")
    return (modules / "axe-core" / "axe.min.js").read_text("utf-8")
