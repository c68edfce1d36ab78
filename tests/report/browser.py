"""A headless Chromium that opens a page and tells what it did."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

REQUIRED = "ELECTRA_JAX_BROWSER"
"""Environment variable by which a machine says that it has a browser: there the tests must not be skipped."""
FLAGS = ["headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
FLAGS += ["disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1400,1000"]


def programs() -> tuple[str, str]:
    """Chromium and its driver; skips the test where they aren't installed."""
    browsers = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    browser, driver = next(filter(None, browsers), None), shutil.which("chromedriver")
    if browser is None or driver is None:
        complaint = "no Chromium with its driver here (Debian's packages chromium and chromium-driver)"
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(complaint)
    return browser, driver


@contextmanager
def started(profile: Path) -> Iterator["Browser"]:
    """A browser with a profile of its own."""
    browser, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*FLAGS, f"user-data-dir={profile}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chromium = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(chromium)
    finally:
        chromium.quit()


class Browser:
    """What the tests ask of a page."""

    def __init__(self, chromium: webdriver.Chrome):
        self.chromium = chromium

    def open(self, page: Path, width: int = 1400, dark: bool = False) -> None:
        """Open the page anew, in a window of that width."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.console(), self.requests()  # of the page before
        self.chromium.get(page.as_uri())
        self.settle()

    def settle(self) -> None:
        """Wait until the page has drawn itself: twice, since charts are drawn when their size is known."""
        wait = (
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50)))"
        )
        self.chromium.execute_async_script(wait)

    def run(self, script: str) -> Any:
        """What an expression of JavaScript gives."""
        return self.chromium.execute_script(f"return {script}")

    def console(self) -> list[str]:
        """Errors and warnings since it was asked last."""
        return [entry["message"] for entry in self.chromium.get_log("browser") if entry["level"] != "INFO"]

    def requests(self) -> list[str]:
        """What was asked for since it was asked last, the page itself included."""
        events = [json.loads(entry["message"])["message"] for entry in self.chromium.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]
