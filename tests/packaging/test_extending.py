"""docs/extending.md as a reader types it: from an empty file to a row in the report."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from grains_eval.demo import model_path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
QUICK = "--set data.examples=8 --set data.development=8 --set evaluation.limit=12 --set evaluation.control_draws=1"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def grains_eval(folder, words):
    command = [sys.executable, "-m", "grains_eval.cli", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_tutorial_leads_to_a_row_in_the_report(tmp_path):
    (tmp_path / "my_methods.py").write_text(blocks("python")[0])
    listing, compare = blocks("sh")[0].replace("\\\n", " ").strip().splitlines()
    assert "median_difference" in grains_eval(tmp_path, shlex.split(listing)[1:])
    words = shlex.split(compare.replace("MODEL", str(model_path("text_split"))))[1:]
    grains_eval(tmp_path, [*words, *shlex.split(QUICK)])
    report = json.loads((tmp_path / "runs" / "mine" / "report.json").read_text())
    assert {"grains", "median_difference"} <= {row["method"] for row in report["comparisons"]}
    note = json.loads((tmp_path / "runs/mine/vectors/median_difference/steering_config.json").read_text())
    assert set(note["provenance"]["plugins"]) == {"my_methods"}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_every_python_block_registers_what_it_says(number, tmp_path):
    (tmp_path / "block.py").write_text(blocks("python")[number])
    name = re.search(r'@ge\.\w+\("(\w+)"', blocks("python")[number]).group(1)
    code = (
        "from grains_eval.plugins import load_plugins; load_plugins(['block.py']);"
        "from grains_eval.study.registered_names import registered_names;"
        "print(*(entry.name for table in registered_names().values() for entry in table))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout.split()
