"""The report in a real browser: no console message, no request, keyboard, print, dark paper."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grains_eval.report import ReportData, compare_runs
from grains_eval.report.html import render_html
from grains_eval.report.items import item_tables
from tests.comparison import world
from tests.comparison.folders import TaskData, write_run

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
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportData]:
    root = tmp_path_factory.mktemp("browser")
    report = compare_runs(world.folders(root), root / "out", supplement=world.extras())
    return root / "out" / "report.html", report


@pytest.fixture(scope="module")
def page(made: tuple[Path, ReportData]) -> Path:
    return made[0]


@pytest.fixture(scope="module")
def report_items(made: tuple[Path, ReportData]) -> dict[str, Any]:
    return item_tables(made[1])[0]


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
    """Tab to the table of items, arrow keys to an item, Enter to read it, arrow keys to the next, Escape."""
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
        if browser.execute_script("return document.activeElement.dataset.part") == "grid":
            break
    row = "return getComputedStyle(document.querySelector('.items tr[aria-selected=true]'))"
    assert browser.execute_script(f"{row}.outlineStyle") == "solid"
    ActionChains(browser).send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER).perform()
    assert part(browser, "position") == "3 of 100"
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    assert part(browser, "position") == "4 of 100"
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not browser.execute_script("return document.querySelector('dialog').open")
    assert browser.execute_script("return document.activeElement.dataset.part") == "grid"


def part(browser: Any, name: str) -> str:
    return browser.execute_script(f"return document.querySelector('[data-part={name}]').innerText")


def choose(browser: Any, name: str, value: str) -> None:
    """Set a control as a user does, and wait until the table follows."""
    browser.execute_async_script(
        "const [name, value, done] = arguments; const e = document.querySelector(`[data-part=${name}]`);"
        "e.value = value; e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change'));"
        "setTimeout(done, 300);",
        name,
        value,
    )


def cells(browser: Any, column: str) -> list[str]:
    return browser.execute_script(f"return [...document.querySelectorAll('td.c-{column}')].map(e => e.innerText)")


def test_items_are_sorted_filtered_and_searched(browser: Any, page: Path, report_items: dict[str, Any]) -> None:
    browser.get(page.as_uri())
    grains = report_items["methods"][0]
    gains = [after - before for before, after in zip(report_items["score"], grains["score"], strict=True)]
    helped, harmed = (sum(sign * gain > 0 for gain in gains) for sign in (1, -1))
    total = f"100 of 100 items: {helped} helped, {harmed} harmed, {100 - helped - harmed} the same"
    assert part(browser, "count") == total
    order = sorted(range(100), key=lambda i: -grains["push"][i])
    assert cells(browser, "document")[:5] == [str(report_items["document"][i]) for i in order[:5]]
    browser.find_element("css selector", "th.c-document button").click()
    assert cells(browser, "document")[:3] == ["119", "118", "117"]
    browser.find_element("css selector", "th.c-document button").click()
    assert cells(browser, "document")[:3] == ["20", "21", "22"]
    assert browser.execute_script("return document.querySelector('th.c-document').ariaSort") == "ascending"
    choose(browser, "effect", "helped")
    assert part(browser, "count").startswith(f"{helped} of 100 items") and set(cells(browser, "effect")) == {"helped"}
    choose(browser, "effect", "wrong")
    wrong = sum(push < 0 for push in grains["push"])
    assert part(browser, "count").startswith(f"{wrong} of 100 items") and wrong > 0
    choose(browser, "effect", "")
    choose(browser, "cluster", "c1")
    assert set(cells(browser, "cluster")) == {"c1"}, "a cluster's whole name means that cluster alone"
    browser.find_element("css selector", "[data-part=reset]").click()
    choose(browser, "search", "GUM 57?")
    assert cells(browser, "document") == ["57"]
    choose(browser, "search", "")
    choose(browser, "task", "1")
    assert part(browser, "count").startswith("600 of 600 items")
    assert not browser.execute_script("return document.querySelector('[data-part=cluster]').checkVisibility()")


def test_rows_are_made_as_they_are_scrolled_to(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    choose(browser, "task", "1")
    choose(browser, "method", "1")
    assert len(cells(browser, "document")) < 60
    browser.find_element("css selector", "th.c-document button").click()
    browser.execute_async_script(
        "document.querySelector('.view').scrollTop = 1e7; setTimeout(arguments[0], 200)",
    )
    assert cells(browser, "document")[-1] == "0" and len(cells(browser, "document")) < 60


def test_an_item_is_shown_in_full_and_its_text_stays_text(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    choose(browser, "search", "gum 57?")
    browser.find_element("css selector", "td.c-prompt").click()
    shown = part(browser, "item")
    assert f"Q: {world.DOCS[57]['question']}" in shown and "truthfulqa_mc1, document 57" in shown
    for text in ("It stays for <b>seven</b> years", "It passes through ✓ right", "cluster c17", "margin"):
        assert text in shown
    assert shown.count("What the tokens contributed") == 1, "a heat map was handed in for this document"
    assert browser.execute_script("return document.querySelectorAll('dialog figure.heat .t').length") == 9
    assert browser.execute_script("return document.querySelectorAll('dialog b, dialog script').length") == 0
    assert browser.get_log("browser") == []


def test_clusters_are_listed_and_lead_to_their_items(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    browser.find_element("css selector", "[data-part=clusters] summary").click()
    rows = browser.execute_async_script(
        "const done = arguments[0];"
        "const rows = () => [...document.querySelectorAll('[data-part=by-cluster] tbody tr')];"
        "setTimeout(() => done(rows().map(e => [...e.cells].map(c => c.innerText))), 100)"
    )
    assert len(rows) == 20 and sum(int(row[1]) for row in rows) == 100
    browser.find_element("css selector", "[data-part=by-cluster] tbody button").click()
    assert set(cells(browser, "cluster")) == {rows[0][0]}


def test_an_impossible_choice_is_not_the_answer(browser: Any, tmp_path: Path) -> None:
    """Log-likelihoods of minus infinity, which JSON does not know, and a hash that would end a selector."""
    docs = [{"question": str(n), "topic": "same"} for n in range(40)]
    for name, (first, second) in (("plain", (-math.inf, -3.0)), ("grains", (-2.0, -math.inf))):
        answers = [[[str(first), "False"], [str(second), "False"]] for _ in docs]
        task = TaskData(
            {"acc": [float(name == "plain")] * 40}, docs=docs, responses=answers, choices=[" no", " yes"],
            targets=["1"] * 40, metadata={"version": 1.0, "cluster_key": "topic"},
        )  # fmt: skip
        write_run(tmp_path / name, {"t": task})
    report = compare_runs([tmp_path / "plain", tmp_path / "grains"])
    (table,) = item_tables(report)
    text = render_html(report).replace(table["hash"][0], '\\"]broken')
    assert text.count("broken") > 0
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    assert set(cells(browser, "answer-before")) == {"yes"} and set(cells(browser, "answer-after")) == {"no"}
    assert set(cells(browser, "change")) == {"−1.000"}
    choose(browser, "effect", "wrong")
    assert part(browser, "count").startswith("40 of 40 items")
    browser.find_element("css selector", "td.c-prompt").click()
    rows = browser.execute_script(
        "return [...document.querySelectorAll('dialog tbody tr')].map(e => [...e.cells].map(c => c.innerText))"
    )
    assert rows == [["no", "−∞", "→ −2.000", "+∞"], ["yes ✓ right", "→ −3.000", "−∞", "−∞"]]
    assert browser.get_log("browser") == []


def test_without_javascript_summary_tables_and_extreme_items_are_there(browser: Any, page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(page.as_uri())
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    text = browser.find_element("css selector", "body").text
    assert "against the strongest control" in text and "Most harmed" in text
    assert not browser.find_element("css selector", "#explorer").is_displayed()


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
