"""A headless Chromium that keeps a record of what a page asked for and complained of."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

PATIENCE_S = 30.0
T = TypeVar("T")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)


class Browser:
    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.origin = ""

    def open(self, url: str, width: int = 1280, height: int = 1000, dark: bool = False) -> None:
        """Shows the page at `url`, and waits until it shows the state at a step."""
        self.origin = "/".join(url.split("/")[:3])
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.complaints(), self.strangers()  # of the page before
        self.driver.get(url)
        self.wait(lambda: self.text("#batch-count"))

    def wait(self, condition: Callable[[], T]) -> T:
        """The first true thing that `condition` returns."""
        from selenium.webdriver.support.wait import WebDriverWait

        waiting = WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.02)
        found: T = waiting.until(lambda _: condition())
        return found

    def script(self, source: str, *arguments: Any) -> Any:
        return self.driver.execute_script(source, *arguments)

    def find(self, selector: str) -> Any:
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list[Any]:
        from selenium.webdriver.common.by import By

        found: list[Any] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def text(self, selector: str) -> str:
        return str(self.script("return document.querySelector(arguments[0]).textContent", selector))

    def texts(self, selector: str) -> list[str]:
        source = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        found: list[str] = self.script(source, selector)
        return found

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def drag(self, selector: str, *shares: float) -> None:
        """Presses the mouse at the first share of the element's width, and moves it on."""
        from selenium.webdriver.common.action_chains import ActionChains

        target = self.find(selector)
        half = target.size["width"] / 2
        chain = ActionChains(self.driver)
        for number, share in enumerate(shares):
            chain.move_to_element_with_offset(target, int((2 * share - 1) * half), 0)
            if number == 0:
                chain.click_and_hold()
        chain.release().perform()

    def complaints(self) -> list[str]:
        """Of the page, since this was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def strangers(self) -> list[str]:
        """What was asked of anybody but the page's origin, since this was asked last."""
        asked = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.append(str(message["params"]["request"]["url"]))
        return [url for url in asked if not url.startswith(self.origin + "/")]


@contextmanager
def headless_browser() -> Iterator[Browser]:
    """Skips the test, saying why, where no browser is installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no chromium with its chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(chromedriver)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield Browser(driver)
        finally:
            driver.quit()
