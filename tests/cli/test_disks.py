"""Full and read-only disks: one line, nothing lost, and nothing half written that is taken for whole later on.

Disks are made in a mount namespace, where the machine allows one; a limit on the size of files stands in everywhere.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import forked
from tests.cli.test_interrupts import MODEL, SMALL, undated
from tests.judging import runs
from tests.judging.server import serving

DEMO = forked.ROOT / "steering_vectors" / "demo-text-split"
PAGE = 4096

needs_disks = pytest.mark.skipif(not forked.is_confinable(), reason="no namespaces for us on this machine")


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """What lies on the disk first: two runs with answers, and vectors."""
    home = tmp_path_factory.mktemp("before")
    runs.write(home / "baseline", good=4)
    runs.write(home / "other", good=8)
    shutil.copytree(DEMO, home / "vectors")
    return home


@pytest.fixture
def commands():
    """Commands by name, each of which writes to the disk that it is in."""
    with serving(runs.rate) as server:
        yield {
            "build": ["build", *SMALL],
            "sweep": ["sweep", *SMALL, "--layers", "1,3", "--strengths", "1"],
            "study": ["compare", *SMALL, "--methods", "grains"],
            "report": ["compare", "baseline", "other", "-o", "out/made"],
            "judge": ["judge", "other", "--base_url", server.url, "--model", "judge", "--retries", "0"],
            "export": ["export", "vectors", "--format", "gguf", "-o", "out/made.gguf"],
            "heat maps": ["show", "vectors", "--html", "out/made.html"],
        }


NAMES = ("build", "sweep", "study", "report", "judge", "export", "heat maps")


def sizes(folder: Path) -> int:
    """Bytes of a disk that its files and folders fill."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE if path.is_file() else 0 for path in folder.rglob("*"))


def one_line(result, name):
    """The line that a command ended with."""
    assert result["code"] == 2, (name, result)
    assert "Traceback" not in result["err"], (name, result["err"])
    (line,) = [line for line in result["err"].splitlines() if line.startswith("grains-eval: ")]
    return line


def lost(folder: Path, before: Path):
    """What lay there first and is changed or gone."""
    found = forked.listing(folder)
    return {name for name, content in forked.listing(before).items() if found.get(name) != content}


@needs_disks
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(name, commands, before, tmp_path):
    words, disk, whole = commands[name], tmp_path / "disk", tmp_path / "whole"
    shutil.copytree(before, whole)
    (made,) = forked.run([{"do": "command", "words": words, "cwd": str(whole)}])
    assert made["code"] == 0, made
    held, needed = sizes(before), sizes(whole)
    disk.mkdir()
    steps, names = [], []
    for number, share in enumerate((0, 0.6)):
        size = held + PAGE + round((needed - held - 2 * PAGE) * share / PAGE) * PAGE
        small, after = tmp_path / f"small-{number}", tmp_path / f"after-{number}"
        names.append(f"{name} on {size} of {needed} bytes")
        steps += [
            {"do": "mount", "place": str(disk), "size": size},
            {"do": "copy", "source": str(before), "target": str(disk)},
            {"do": "command", "words": words, "cwd": str(disk)},
            {"do": "copy", "source": str(disk), "target": str(small)},
            {"do": "grow", "place": str(disk)},
            {"do": "command", "words": words, "cwd": str(disk)},
            {"do": "copy", "source": str(disk), "target": str(after)},
            {"do": "unmount", "place": str(disk)},
        ]
    results = [each for each in forked.run(steps, confined=True) if each is not None]
    for number, what in enumerate(names):
        first, again = results[2 * number : 2 * number + 2]
        line = one_line(first, what)
        assert "disk" in line and ("full" in line or "free some" in line), line
        assert not lost(tmp_path / f"small-{number}", before), what
        made = tmp_path / f"small-{number}" / "out"
        assert not [file for file in made.rglob("*.part") if file.is_file()], what
        assert again["code"] == 0, (what, again)
        assert undated(tmp_path / f"after-{number}") == undated(whole), what


@pytest.mark.slow
def test_files_that_may_not_become_large_enough(commands, before, tmp_path):
    steps, names = [], []
    for name in NAMES:
        for largest in (300, 3000):
            place = tmp_path / f"{name}-{largest}"
            steps += [
                {"do": "copy", "source": str(before), "target": str(place)},
                {"do": "command", "words": commands[name], "cwd": str(place), "largest": largest},
                {"do": "command", "words": commands[name], "cwd": str(place)},
            ]
            names.append(place)
    results = [each for each in forked.run(steps) if each is not None]
    for place, first, again in zip(names, results[::2], results[1::2], strict=True):
        line = one_line(first, place.name)
        assert "File too large" in line or "lm-eval wrote" in line, line
        assert not lost(place, before), place
        assert again["code"] == 0, (place.name, again)


@needs_disks
@pytest.mark.slow
def test_read_only_disks(commands, before, tmp_path):
    place = tmp_path / "disk"
    shutil.copytree(before, place)
    aside = {
        "report": ["compare", str(place / "baseline"), str(place / "other"), "-o", "made"],
        "export": ["export", str(place / "vectors"), "--format", "gguf", "-o", "made.gguf"],
        "card": ["show", str(place / "vectors")],
        "run": ["run", "--model", "grains_hf", "--model_args", f"{MODEL},vectors={place / 'vectors'}", "--limit", "2",
                "--tasks", "demo_text_split", "--output_path", "made_run"],
    }  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    steps = [
        {"do": "read_only", "place": str(place)},
        *({"do": "command", "words": commands[name], "cwd": str(place)} for name in NAMES),
        *({"do": "command", "words": words, "cwd": str(elsewhere)} for words in aside.values()),
    ]
    results = [each for each in forked.run(steps, confined=True) if each is not None]
    for name, result in zip(NAMES, results, strict=False):
        line = one_line(result, name)
        assert "Read-only file system" in line or "nothing can be written to" in line, line
        assert result["changes"] <= 3, name
    assert not lost(place, before)
    for name, result in zip(aside, results[len(NAMES) :], strict=True):
        assert result["code"] == 0, (name, result)


@needs_disks
@pytest.mark.slow
def test_without_a_network(before, commands, tmp_path):
    """What needs the hub or a judge says so in one line; what does not works."""
    local = {name: commands[name] for name in ("build", "study", "report", "export")}
    remote = {
        "a model": ["build", "--config", "demo/text_split", "--model_args", "pretrained=nobody/model", "-o", "x"],
        "data": ["build", *SMALL[:4], "--set", "data.task=null", "--set", "data.path=nobody/data", "-o", "x"],
        "a task": ["compare", *SMALL[:-2], "--set", "evaluation.tasks=[arc_easy]", "--methods", "grains", "-o", "y"],
        "vectors": ["run", "--model", "grains_hf", "--tasks", "demo_text_split", "--limit", "2", "--model_args",
                    f"{MODEL},vectors=nobody/vectors"],
        "an export": ["export", "nobody/vectors", "--format", "gguf"],
        "a push": ["push", "vectors", "nobody/vectors"],
        "a judge": ["judge", "other", "--base_url", "http://judge.invalid/v1", "--model", "judge", "--retries", "0"],
    }  # fmt: skip
    steps = []
    for name, words in (local | remote).items():
        shutil.copytree(before, tmp_path / name)
        steps.append({"do": "command", "words": words, "cwd": str(tmp_path / name)})
    results = [each for each in forked.run(steps, offline=True) if each is not None]
    for (name, _), result in zip(local.items(), results, strict=False):
        assert result["code"] == 0, (name, result)
    for (name, words), result in zip(remote.items(), results[len(local) :], strict=True):
        line = one_line(result, name)
        assert any(word in line for word in words if "judge" in word) or "nobody" in line or "on the Hub" in line, line
