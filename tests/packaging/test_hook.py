"""The registration hook, against a stand-in for lm_eval that is as small as the two modules it touches."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

START = (ROOT / "grains_eval_lm_eval.pth").read_text()

REGISTRY = """
class Registry(dict):
    def register(self, name, target):
        assert name not in self
        self[name] = target
model_registry = Registry()
"""

MANAGER = """
from pathlib import Path

class TaskIndex:
    @staticmethod
    def build(paths, *, resolve_includes=True):
        return [str(path) for path in paths]

class TaskManager:
    def __init__(self, include_path=()):
        self.folders = TaskIndex().build([Path(__file__).parent, *map(Path, include_path)])
"""


@pytest.fixture
def harness(tmp_path):
    """A folder with a stand-in lm_eval; its files may be changed before it is used."""
    files = {"__init__.py": "", "api/__init__.py": "", "api/registry.py": REGISTRY, "models/__init__.py": ""}
    files |= {"tasks/__init__.py": "", "tasks/manager.py": MANAGER}
    for name, text in files.items():
        file = tmp_path / "lm_eval" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def python(code, *paths, **environment):
    """Run code after the line of the .pth file, in a bare interpreter that sees only the given folders."""
    variables = {k: v for k, v in os.environ.items() if k not in ("GRAINS_EVAL_NO_HOOK", "PYTHONPATH")}
    variables["PYTHONPATH"] = os.pathsep.join(map(str, (*paths, ROOT)))
    program = START + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-S", "-W", "always", "-c", program],
        env=variables | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def printed(code, *paths, **environment):
    done = python(code, *paths, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


REGISTERED = "import lm_eval.models; from lm_eval.api.registry import model_registry; print(dict(model_registry))"


def test_model_is_registered_when_lm_eval_imports_its_models(harness):
    assert ast.literal_eval(printed(REGISTERED, harness)) == {
        "grains_hf": "grains_eval.harness.model:GrainsHF",
        "grains_vllm": "grains_eval.vllm.model:GrainsVLLM",
    }


def test_tasks_come_after_the_defaults_and_before_the_users(harness):
    code = "from lm_eval.tasks.manager import TaskManager; print(*TaskManager(['mine']).folders, sep='|')"
    defaults = harness / "lm_eval" / "tasks"
    assert printed(code, harness).split("|") == [str(defaults), str(ROOT / "tasks"), "mine"]


def test_tasks_stay_out_where_the_defaults_are_not_asked_for(harness):
    code = "from lm_eval.tasks.manager import TaskIndex; print(TaskIndex.build(['mine']))"
    assert printed(code, harness) == "['mine']"


def test_environment_switches_it_off(harness):
    assert printed(REGISTERED, harness, GRAINS_EVAL_NO_HOOK="1") == "{}"
    assert printed("import sys; print([f.__name__ for f in sys.meta_path][0])", GRAINS_EVAL_NO_HOOK="1") != "Finder"
    assert "grains_hf" in printed(REGISTERED, harness, GRAINS_EVAL_NO_HOOK="0")


def test_a_bare_probe_does_not_use_the_hook_up(harness):
    probe = "from importlib.util import find_spec; assert all(find_spec('lm_eval.models') for _ in range(2));"
    assert "grains_hf" in printed(probe + REGISTERED, harness)


def test_modules_imported_before_are_served_too(harness):
    late = "import sys; sys.meta_path = [f for f in sys.meta_path if f.__name__ != 'Finder'];"
    late += "import lm_eval.models; from grains_eval._lm_eval_hook import install; install();"
    assert "grains_hf" in printed(late + REGISTERED, harness)


def test_a_name_from_the_entry_point_is_left_alone(harness):
    models = harness / "lm_eval" / "models" / "__init__.py"
    models.write_text("from lm_eval.api.registry import model_registry as r; r.register('grains_hf', 'theirs')")
    found = ast.literal_eval(printed(REGISTERED, harness))
    assert found == {"grains_hf": "theirs", "grains_vllm": "grains_eval.vllm.model:GrainsVLLM"}


@pytest.mark.parametrize("installed", [True, False])
def test_plugin_discovery_is_left_to_lm_eval_where_it_finds_us(harness, installed):
    """An entry point can name the installed `grains_eval.tasks`, but not the `tasks/` of a checkout."""
    manager = harness / "lm_eval" / "tasks" / "manager.py"
    manager.write_text("def discover_plugin_task_paths(): return []\n" + MANAGER)
    code = f"import grains_eval.tasks_path as t; t.is_installed = lambda: {installed};"
    code += "from lm_eval.tasks.manager import TaskManager; print(len(TaskManager().folders))"
    assert printed(code, harness) == ("1" if installed else "2")


def test_python_starts_where_lm_eval_is_missing(tmp_path):
    assert printed("print('up')", tmp_path) == "up"
    done = python("import lm_eval.models", tmp_path)
    assert "No module named 'lm_eval'" in done.stderr and "grains" not in done.stderr


def test_a_broken_lm_eval_shows_its_own_error(harness):
    (harness / "lm_eval" / "models" / "__init__.py").write_text("raise OSError('their fault')")
    assert python("import lm_eval.models", harness).stderr.endswith("OSError: their fault\n")


def test_an_lm_eval_without_the_registry_gets_a_warning_and_works(harness):
    (harness / "lm_eval" / "api" / "registry.py").unlink()
    done = python("import lm_eval.models; print('up')", harness)
    assert done.stdout == "up\n"
    assert "RuntimeWarning: grains-eval could not register with lm_eval" in done.stderr


def test_python_starts_where_the_package_is_gone(tmp_path):
    program = START + "print('up')"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("up\n", "")


def test_start_imports_two_small_modules_in_under_two_milliseconds(tmp_path):
    code = """
    import sys, time, os
    before, start = set(sys.modules), time.perf_counter()
    exec(os.environ["START"])
    print(time.perf_counter() - start, *sorted(set(sys.modules) - before))
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"START": START, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(tmp_path)}
    command = [sys.executable, "-S", "-c", textwrap.dedent(code)]
    runs = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(7)
    ]
    assert runs[0][1:] == ["grains_eval", "grains_eval._lm_eval_hook"]
    assert min(float(run[0]) for run in runs) < 2e-3
