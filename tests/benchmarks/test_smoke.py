"""Every benchmark runs at toy size, where it stops if the fast side is not exact; the page shows what was measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import page

ROOT = Path(__file__).resolve().parents[2]


BROWSER = shutil.which("chromium") and shutil.which("chromedriver")
BENCHMARKS = [
    "build",
    "coverage",
    "departures",
    "evaluate",
    "exactness",
    "families",
    "fidelity",
    "found_tokens",
    "gpu",
    "half",
    "images",
    "large",
    "methods",
    "overhead",
    "proof",
    pytest.param("report_items", marks=pytest.mark.skipif(not BROWSER, reason="no chromium and chromedriver here")),
    "rounding",
    "startup",
    "sweep",
    "tokens",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_smoke(name, tmp_path):
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--smoke", "--output", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(file.read_text())
    assert found["rows"] and found["smoke"]
    assert found["command"] == f"python -m benchmarks.{name} --smoke"
    assert found["machine"]["versions"]["torch"]


@pytest.mark.parametrize("file", page.PAGES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_the_pages_show_the_measured_tables(file):
    text = file.read_text()
    assert page.PLACE.search(text)
    assert page.render(text) == text, "run python -m benchmarks.page"


def test_committed_results_are_not_smokes():
    for file in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert not json.loads(file.read_text())["smoke"], file.name
