"""The report in a real browser: no console message, no request, keyboard, print, dark paper."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grains_eval.report import compare_runs
from tests.comparison import world

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on this machine"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    compare_runs(world.folders(root), root / "out", **world.extras())
    return root / "out" / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_window_size(1280, 900)
    yield driver
    driver.quit()


def test_renders_without_messages_and_without_requests(browser: Any, page: Path) -> None:
    browser.get_log("performance")
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {message["params"]["request"]["url"] for message in sent if message["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:")} == {page.as_uri()}


def test_nothing_is_cut_off(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    for width in (1280, 500):
        browser.set_window_size(width, 900)
        assert not browser.execute_script(
            "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
    browser.set_window_size(1280, 900)
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.plot svg')].filter(e => e.checkVisibility())"
        ".map(e => [e.clientWidth, e.clientHeight])"
    )
    assert len(sizes) >= 4
    assert all(width > 300 and height > 80 for width, height in sizes)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_shows_every_caption_without_scrolling(browser: Any, page: Path, scheme: str) -> None:
    """A table may be wider than the page; the sentences below it may not."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") == 400
    wide = browser.execute_script(
        "return [...document.querySelectorAll('caption, .headline, li, summary')].filter(e => e.checkVisibility())"
        ".map(e => [e.innerText, e.getBoundingClientRect().left, e.getBoundingClientRect().right])"
        ".filter(([text, left, right]) => left < 0 || right > 400)"
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert wide == []


def test_keyboard_reaches_the_table_and_opens_items(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    ActionChains(browser).send_keys(Keys.TAB).perform()
    active = browser.switch_to.active_element
    assert active.text == "Skip to the table"
    active.send_keys(Keys.ENTER)
    assert browser.current_url.endswith("#table")
    for _ in range(80):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        active = browser.switch_to.active_element
        if active.tag_name == "summary" and active.text.startswith("document"):
            break
    assert active.tag_name == "summary"
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert browser.execute_script("return document.activeElement.parentElement.open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Any, page: Path, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    browser.get(page.as_uri())
    for selector in (".headline", "caption", "nav a", "tr.control .method", ".soft", ".plot svg text"):
        front, back = browser.execute_script(
            "const e = document.querySelector(arguments[0]);"
            "return [e.tagName === 'text' ? getComputedStyle(e).fill : getComputedStyle(e).color,"
            "getComputedStyle(document.body).backgroundColor]",
            selector,
        )
        assert contrast(front, back) >= 4.5, selector
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio of two `rgb(...)` colours."""
    lights = []
    for colour in (first, second):
        channels = [float(x) / 255 for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_prints(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    assert len(printed["data"]) > 20_000
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
