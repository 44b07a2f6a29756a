"""The base install compares runs: no torch among what it requires, none needed, and quick to start."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from grains_eval.cli.errors import STEERING_PACKAGES
from tests.comparison.folders import TaskData, bits, runs
from tests.comparison.logs.samples import INSPECT, LMMS

ROOT = Path(__file__).resolve().parents[2]
# Makes the packages of the extra `steer` look as if they were not installed, then runs a command.
WITHOUT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Absent())
from grains_eval.cli import main
sys.exit(main(sys.argv[1:]))
"""


def command(*words):
    code = WITHOUT.format(packages=sorted(STEERING_PACKAGES))
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)


def requirements(name, extras=frozenset()):
    """The names that a distribution requires with these extras, as far as their own metadata say."""
    packaging = pytest.importorskip("packaging.requirements")
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for e in extras for line in project["optional-dependencies"][e])]
    todo, found = [packaging.Requirement(line) for line in lines], set()
    while todo:
        wanted = todo.pop()
        key = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if key in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found.add(key)
        try:
            further = distribution(key).requires or []
        except PackageNotFoundError:
            continue
        todo += [r for r in map(packaging.Requirement, further) if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.parametrize("extras", [(), ("compare",)])
def test_comparing_requires_no_torch(extras):
    found = requirements("grains-eval", extras)
    assert {"numpy", "scipy", "pydantic"} <= found
    assert not found & {"torch", "transformers", "lm-eval", "datasets", "accelerate"}


def test_steering_requires_what_the_errors_name():
    found = requirements("grains-eval", ("steer",))
    names = {"sklearn": "scikit-learn"}
    assert {names.get(name, name).replace("_", "-") for name in STEERING_PACKAGES} <= found


@pytest.mark.slow
def test_runs_of_every_tool_are_compared_without_them(tmp_path):
    folders = runs(tmp_path, TaskData({"acc": bits(40, 0.5, 1)}), TaskData({"acc": bits(40, 0.6, 2)}))
    pairs = {"lm_eval": folders, **{home.name: (home / "baseline", home / "steered") for home in (INSPECT, LMMS)}}
    for name, pair in pairs.items():
        done = command("compare", *pair, "--output_path", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name / "report.html").exists()


def test_what_needs_them_says_how_to_get_them(tmp_path):
    done = command("build", "--config", "truthfulqa", "--model_args", "pretrained=x", "--output_path", tmp_path / "v")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "not installed; pip install 'grains-eval[steer]'" in line


def test_help_starts_without_anything_heavy():
    code = "import sys; from grains_eval.cli import main\ntry: main(['compare', '--help'])\nexcept SystemExit: pass\n"
    code += "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {*STEERING_PACKAGES, "numpy", "scipy", "pydantic", "yaml", "rich", "matplotlib", "jinja2"}
