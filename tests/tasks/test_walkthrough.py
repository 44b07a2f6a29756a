"""Does what docs/own-behaviour.md says: behaviours from YAML and files alone, from the code blocks of the page."""

import csv
import os
import re
from pathlib import Path

import pytest

from grains_eval import cli
from tests.packaging.pages import ROOT, commands, titled

PAGE = ROOT / "docs" / "own-behaviour.md"
# the images' comparison is run with fewer of everything
FEWER = ("data.examples=6", "data.development=4", "evaluation.limit=12", "evaluation.control_draws=1")
QUICK = [word for key in FEWER for word in ("--set", key)]


def run(words: list[str]) -> None:
    """One command of the page, in this process: where `lm_eval` finds grains_hf by itself has tests of its own."""
    program, *rest = words
    if program == "python":
        exec(compile(Path(rest[0]).read_text(), rest[0], "exec"), {})
        return
    try:
        assert cli.main(rest) == 0, words
    except SystemExit as ended:
        assert not ended.code, words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where somebody has typed the page."""
    made = tmp_path_factory.mktemp("typed")
    before = Path.cwd()
    os.chdir(made)
    try:
        first, *others = commands(PAGE)
        Path("prepare.py").write_text(titled(PAGE)["prepare.py"])
        run(first)
        for name, text in titled(PAGE).items():
            Path(name).write_text(text)
        for words in others:
            run([*words, *QUICK] if "--methods" in words else words)
    finally:
        os.chdir(before)
    return made


@pytest.mark.slow
def test_the_page_shows_what_comes_out(folder: Path) -> None:
    with (folder / "runs/compare/comparisons.csv").open() as file:
        found = {row["task"]: row for row in csv.DictReader(file)}
    shown = re.findall(r"^\| (towns\w*) \| ([\d.]+) \| ([\d.]+) \|", PAGE.read_text(), flags=re.MULTILINE)
    assert [name for name, *_ in shown] == ["towns", "towns_skills"]
    for name, baseline, steered in shown:  # other processors round otherwise
        assert 100 * float(found[name]["baseline"]) == pytest.approx(float(baseline), abs=5)
        assert 100 * float(found[name]["steered"]) == pytest.approx(float(steered), abs=5)


@pytest.mark.slow
def test_images_are_compared_from_yaml_alone(folder: Path) -> None:
    with (folder / "runs/rooms/comparisons.csv").open() as file:
        found = {(row["task"], row["method"]) for row in csv.DictReader(file)}
    assert {("rooms", "grains"), ("rooms", "prompt"), ("rooms", "vocabulary"), ("rooms_sight", "grains")} <= found
