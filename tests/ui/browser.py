"""A headless Chromium that looks at one server's page."""

import json
import os
from pathlib import Path

from live.polling import until
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

VIEWS = ("overview", "sankey", "chord", "series", "flows", "exporters", "loss", "policies")
THEMES = ("light", "dark")


class Browser:
    """The page of the server at `origin`; pictures go to `pictures`."""

    def __init__(self, origin: str, pictures: Path) -> None:
        self.origin = origin
        self._pictures = pictures
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--window-size=1440,1100",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))

    def close(self) -> None:
        self.driver.quit()

    def open(self, address: str) -> None:
        """Load the page anew at an address such as `#/sankey`, and wait until it shows something."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.origin}/{address}")
        self.wait("document.body.dataset.ready || document.querySelector('.message')")

    def go(self, act) -> None:
        """Do something that makes the page ask again, and wait until it has shown the answer."""
        shown = self.run("return Number(document.body.dataset.ready ?? 0)")
        act()
        self.wait(f"Number(document.body.dataset.ready ?? 0) > {shown} && !document.querySelector('[aria-busy=true]')")

    def wait(self, condition: str) -> None:
        """Until an expression of the page is true."""
        until(lambda: self.run(f"return Boolean({condition})"), condition)

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def labels(self, selector: str) -> list[str]:
        """What a screen reader says of marks, without the hint of what they do."""
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.getAttribute('aria-label'))"
        return [text.partition(". ")[0].removesuffix(".") for text in self.run(script, selector)]

    def pairs(self) -> dict[tuple[str, str], str]:
        """(source, destination): amount, of the table below a chart with these two columns."""
        for more in self.all(".twin > button"):
            more.click()
        script = (
            "return [...document.querySelectorAll('.twin tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
        )
        return {(row[0], row[1]): row[2] for row in self.run(script)}

    def click(self, element, *, shift: bool = False) -> None:
        chain = ActionChains(self.driver)
        if shift:
            chain.key_down(Keys.SHIFT)
        chain.click(element)
        if shift:
            chain.key_up(Keys.SHIFT)
        chain.perform()

    def keys(self, *keys: str) -> None:
        chain = ActionChains(self.driver)
        for key in keys:
            chain.send_keys(key)
        chain.perform()

    @property
    def address(self) -> str:
        return self.driver.current_url.removeprefix(self.origin + "/")

    def system_theme(self, theme: str, *, reduced_motion: bool = False) -> None:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        features.append({"name": "prefers-reduced-motion", "value": "reduce" if reduced_motion else "no-preference"})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def picture(self, name: str) -> Path:
        """A screenshot of the whole page."""
        path = self._pictures / f"{name}.png"
        height = max(self.run("return document.documentElement.scrollHeight"), 700)
        metrics = {"width": 1440, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.save_screenshot(str(path))
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        return path

    def complaints(self) -> list[str]:
        """Errors and warnings on the console since the last call."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def foreign(self) -> list[str]:
        """Addresses outside the server that were asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [
            url for url in sent if not url.startswith((self.origin + "/", "about:", "blob:" + self.origin, "data:"))
        ]

    def violations(self, axe: str) -> list[str]:
        """What axe-core finds that is serious or critical."""
        self.run(axe)
        script = "const done = arguments[0]; axe.run().then(({ violations }) => done(violations))"
        found = self.driver.execute_async_script(script)
        return [
            f"{each['id']}: {each['help']}: {[node['html'][:160] for node in each['nodes'][:3]]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]


def pictures_directory(default: Path) -> Path:
    """Where screenshots go: FLOWAGENT_SCREENSHOTS, else a directory of the test run."""
    path = Path(os.environ.get("FLOWAGENT_SCREENSHOTS") or default)
    path.mkdir(parents=True, exist_ok=True)
    return path


def readable(size: float) -> str:
    """As the page writes bytes: three figures."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f} {unit}"
        size /= 1000
    raise AssertionError(size)
