"""How long a report with many items takes to open in Chromium, and to sort, filter and search its table of items.

    python -m benchmarks.report_items

Two runs of `--items` documents with four choices each, prompts of about `--characters` characters that differ from the
first, are written as lm-eval writes them and compared; each repeat opens the page in a browser started anew. `open` is
wall-clock seconds from the start of navigation until the table shows its first rows. Exits with 1 where the median is
above `--limit`. Needs chromium and chromedriver.
"""

from __future__ import annotations

import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from grains_eval.report import compare_runs
from tests.comparison.folders import TaskData, write_run

FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)
METHODS = {"grains": 0.6, "caa": 0.2}
CHOICES = 4


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    common.start(arguments)
    items = 200 if arguments.smoke else arguments.items
    with tempfile.TemporaryDirectory() as folder:
        page = _report(Path(folder), items, arguments.characters)
        size = page.stat().st_size
        found = [_measure(page, items) for _ in range(1 if arguments.smoke else arguments.repeats)]
    seconds = {name: statistics.median(one[name] for one in found) for name in found[0]}
    row = {"items": items, "methods": len(METHODS), "page (MB)": round(size / 1e6, 1)}
    common.report(
        "report_items", [{**row, **{f"{name} (s)": round(value, 3) for name, value in seconds.items()}}], arguments
    )
    if not arguments.smoke and seconds["open"] > arguments.limit:
        sys.exit(f"the page took {seconds['open']:.2f} s to open, more than {arguments.limit:g}")


def _arguments() -> Any:
    parser = common.parser(__doc__ or "")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--characters", type=int, default=600, help="length of a prompt")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds that opening may take")
    return parser.parse_args()


def _report(folder: Path, items: int, characters: int) -> Path:
    draw = random.Random(0)
    words = [f"word{number}" for number in range(5000)]
    texts = [" ".join(draw.choices(words, k=characters // 9))[:characters] for _ in range(items)]
    docs = [{"question": f"question {place} {text}", "topic": place % 50} for place, text in enumerate(texts)]
    scores = [[draw.gauss(-3, 1) for _ in range(CHOICES)] for _ in range(items)]
    _write_run(folder / "baseline", docs, scores)
    for name, shift in METHODS.items():
        moved = [[one + draw.gauss(0, 0.5) + shift * (n == 0) for n, one in enumerate(own)] for own in scores]
        _write_run(folder / name, docs, moved)
    compare_runs([folder / name for name in ("baseline", *METHODS)], folder / "report")
    return folder / "report" / "report.html"


def _write_run(folder: Path, docs: Sequence[Mapping[str, Any]], scores: Sequence[Sequence[float]]) -> None:
    right = [float(max(own) == own[0]) for own in scores]
    task = TaskData(
        {"acc": right},
        docs=docs,
        prompts=[f"{doc['question']}\nAnswer:" for doc in docs],
        choices=[f" choice {number}" for number in range(CHOICES)],
        responses=[[[str(score), "False"] for score in own] for own in scores],
        metadata={"version": 1.0, "cluster_key": "topic"},
    )
    write_run(folder, {"questions": task})


def _measure(page: Path, items: int) -> dict[str, float]:
    """Seconds until the table is there, and of what a reader does with it."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.binary_location = str(shutil.which("chromium"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            browser.set_window_size(1280, 900)
            before = time.perf_counter()
            browser.get(page.as_uri())
            opened = time.perf_counter() - before
            shown, total = browser.execute_script(
                "return [document.querySelectorAll('.items tbody tr:not(.space)').length,"
                "document.querySelector('[data-part=count]').textContent]"
            )
            if not shown or not total.startswith(f"{items:,} of {items:,} items"):
                raise SystemExit(f"the table of items is not there: {shown} rows, '{total}'")
            return {
                "open": opened,
                "sort": _script(browser, "document.querySelector('th.c-prompt button').click()"),
                "filter": _script(browser, "use('effect', 'harmed', 'change')"),
                "search": _script(browser, "use('search', 'question 17', 'input')", 0.15),
                "scroll": _script(browser, "document.querySelector('.view').scrollTop = 1e6"),
            }
        finally:
            browser.quit()


def _script(browser: Any, work: str, waits: float = 0.0) -> float:
    """Seconds until the page has done `work` and painted it, beyond what it waits on purpose."""
    took = browser.execute_async_script(
        "const done = arguments[0];"
        "const use = (name, value, kind) => { const e = document.querySelector(`[data-part=${name}]`);"
        "e.value = value; e.dispatchEvent(new Event(kind)); };"
        f"const start = performance.now(); {work};"
        "const painted = () => requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));"
        f"setTimeout(painted, {waits * 1000});"
    )
    return max(0.0, took / 1000 - waits)


if __name__ == "__main__":
    main()
