"""The wheel and the editable install in fresh environments, with the commands that a user types.

The environments see the libraries of the running one through a path line (whose own `.pth` files are then not
read), so that everything of ours comes from the install under test.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LM_EVAL_SCRIPT = "#!{python}\nimport sys\nfrom lm_eval.__main__ import cli_evaluate\nsys.exit(cli_evaluate())\n"

pytestmark = pytest.mark.slow


class Environment:
    """A fresh virtual environment with lm_eval's commands and what the test installs."""

    def __init__(self, folder):
        venv.create(folder, with_pip=False, symlinks=True)
        self.folder, self.bin = folder, folder / "bin"
        self.python = self.bin / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = folder / "lib" / version / "site-packages"
        (self.site / "aaa_libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for name in ("lm_eval", "lm-eval"):
            (self.bin / name).write_text(LM_EVAL_SCRIPT.format(python=self.python))
            (self.bin / name).chmod(0o755)

    def run(self, *words, check=True, **variables):
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "GRAINS_EVAL_NO_HOOK")}
        kept |= {"PATH": f"{self.bin}{os.pathsep}{kept['PATH']}", "HF_HUB_OFFLINE": "1", **variables}
        command = [str(self.bin / words[0]), *map(str, words[1:])]
        done = subprocess.run(command, env=kept, cwd=self.folder, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def pip(self, *words):
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def install(self, *what):
        self.pip("install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", *what)

    def ours(self):
        return sorted(path.name for folder in (self.site, self.bin) for path in folder.glob("*grains*"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("wheel") / "env")
    environment.install(wheel)
    return environment


@pytest.fixture(scope="module")
def model(installed):
    """The bundled text model, from the installed package."""
    code = "from grains_eval.demo import model_path; print(model_path('text_split'))"
    folder = Path(installed.run("python", "-c", code).stdout.strip())
    assert folder.is_relative_to(installed.site)
    return folder


def evaluation(model, output):
    words = f"--model grains_hf --model_args pretrained={model},dtype=float32 --tasks demo_text_split --limit 3"
    return [*words.split(), "--device", "cpu", "--output_path", output]


def reported(output):
    found = json.loads(next(Path(output).glob("**/results_*.json")).read_text())
    return found["results"]["demo_text_split"]["acc,none"], found["config"]["model"]


def test_wheel_holds_the_tasks_inside_the_package_and_nothing_beside_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    roots = {re.sub(r"^(grains_eval-[^/]*)/.*", r"\1", name.split("/")[0]) for name in names}
    assert roots == {"grains_eval", "grains_eval-0.1.0.dist-info", "grains_eval_lm_eval.pth"}
    inside = {name.removeprefix("grains_eval/") for name in names}
    checkout = {str(path.relative_to(ROOT)) for path in (ROOT / "tasks").glob("**/*.yaml")}
    assert checkout <= inside
    assert {"py.typed", "demo/weights/text_split/model.safetensors"} <= inside
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.endswith((".pyc", ".pt", ".bin")) for name in names)


def test_entry_points_for_coming_lm_eval_name_what_is_there(installed):
    code = """
from importlib.metadata import distribution
from importlib.util import find_spec
points = {(p.group, p.name): p for p in distribution("grains-eval").entry_points}
assert {name for group, name in points if group == "lm_eval.models"} == {"grains_hf", "grains_vllm"}
assert points["lm_eval.models", "grains_hf"].load().__name__ == "GrainsHF"
module = points["lm_eval.models", "grains_vllm"].module
assert "class GrainsVLLM" in open(find_spec(module).origin).read()
folder, = find_spec(points["lm_eval.tasks", "grains_eval"].value).submodule_search_locations
from grains_eval.tasks_path import task_directory
assert str(task_directory()) == folder
"""
    installed.run("python", "-c", code)


@pytest.mark.parametrize("typed", ["lm_eval", "lm-eval run", "python -m lm_eval", "grains-eval run"])
def test_typed_command_finds_model_and_tasks(installed, model, tmp_path, typed):
    done = installed.run(*typed.split(), *evaluation(model, tmp_path))
    score, name = reported(tmp_path)
    assert 0 <= score <= 1 and name == "grains_hf"
    assert "demo_text_split" in done.stdout


def test_switched_off_only_our_own_command_finds_them(installed, model, tmp_path):
    refused = installed.run("lm_eval", *evaluation(model, tmp_path), check=False, GRAINS_EVAL_NO_HOOK="1")
    assert refused.returncode != 0 and "Tasks not found: demo_text_split" in refused.stderr
    installed.run("grains-eval", "run", *evaluation(model, tmp_path), GRAINS_EVAL_NO_HOOK="1")
    assert reported(tmp_path)[1] == "grains_hf"


def test_editable_install_reads_the_tasks_of_the_checkout(tmp_path):
    environment = Environment(tmp_path / "env")
    environment.install("--editable", ROOT)
    listed = environment.run("lm-eval", "ls", "tasks").stdout
    assert re.search(r"\bdemo_text_split\b.*tasks/demo/text_split/", listed)
    assert not (environment.site / "grains_eval").exists()
    environment.pip("uninstall", "--yes", "--quiet", "grains-eval")
    assert environment.ours() == []


def test_uninstall_leaves_nothing(wheel, tmp_path):
    environment = Environment(tmp_path / "env")
    environment.install(wheel)
    assert "grains_eval_lm_eval.pth" in environment.ours()
    environment.pip("uninstall", "--yes", "--quiet", "grains-eval")
    assert environment.ours() == []
    code = "from lm_eval.api.registry import model_registry as r; import lm_eval.models; print('grains_hf' in r)"
    done = environment.run("python", "-c", code)
    assert done.stdout == "False\n"
