"""Modules of the user's own: found by name, by file and by entry point, refused in one line, never run twice."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from grains_eval import plugins
from grains_eval.errors import GrainsError
from grains_eval.recipes import load_recipe

OPERATOR = """
import grains_eval as ge

@ge.steering_operator("{name}")
def moved(hidden, delta):
    \"\"\"Moves by nothing.\"\"\"
    return hidden
"""


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """Plug-ins and operators of one test are unknown to the next."""
    from grains_eval.steering import OPERATORS

    list(OPERATORS)
    monkeypatch.setattr(plugins, "_named", {})
    monkeypatch.setattr(plugins, "_announced", [])
    monkeypatch.setattr(plugins, "_digests", {})
    monkeypatch.setattr(OPERATORS, "_entries", dict(OPERATORS._entries))
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("plugin_"):
            del sys.modules[name]


def written(folder, stem, text):
    file = Path(folder) / f"{stem}.py"
    file.write_text(text)
    return file


def test_a_file_is_imported_once_and_its_source_is_known(tmp_path, monkeypatch):
    from grains_eval.steering import OPERATORS

    file = written(tmp_path, "plugin_one", OPERATOR.format(name="stay"))
    plugins.load_plugins([str(file)])
    plugins.load_plugins([str(file)])  # a second import would register the name twice
    assert "stay" in OPERATORS
    before = plugins.digests()["plugin_one"]
    file.write_text(file.read_text() + "\n# changed\n")
    assert plugins.digests()["plugin_one"] == before  # of the code that runs, whatever the file says by now
    monkeypatch.syspath_prepend(tmp_path)
    plugins.load_plugins(["plugin_one"])  # by the other name, it is the same module


@pytest.mark.slow
def test_a_taken_name_is_the_newcomers_fault_even_before_the_table_was_read():
    code = (
        "import grains_eval as ge\n"
        "try:\n"
        "    ge.vector_method('caa')(lambda context: None)\n"
        "except ge.GrainsError as error:\n"
        "    print(error)\n"
        "from grains_eval.vectors import METHODS\n"
        "print(METHODS['caa'].function.__module__, 'grains' in METHODS)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    refused, kept = done.stdout.splitlines()
    assert refused == "the method 'caa' exists already; register yours under another name"
    assert kept == "grains_eval.vectors.caa True"


def test_a_module_of_the_working_directory_is_found(tmp_path, monkeypatch):
    written(tmp_path, "plugin_here", "FOUND = True")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    plugins.load_plugins(["plugin_here"])
    assert sys.modules["plugin_here"].FOUND
    assert str(tmp_path) not in sys.path


def test_a_recipe_names_files_beside_it(tmp_path):
    written(tmp_path, "plugin_beside", OPERATOR.format(name="beside"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: r\nplugins: [plugin_beside.py]\ndata: {path: rows.jsonl}\nsteering: {operator: beside}\n")
    from grains_eval.steering import OPERATORS

    assert load_recipe(recipe).plugins == ["plugin_beside.py"] and "beside" in OPERATORS


def test_a_recipe_without_plugins_keeps_its_fingerprint(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: r\ndata: {path: rows.jsonl}\n")
    found = load_recipe(recipe)
    # taken before recipes had the key; data.path is as written, since there is no such file
    assert found.fingerprint() == "7986c4a185104014"
    assert found.model_copy(update={"plugins": ["x"]}).fingerprint() != found.fingerprint()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import nothing_of_this_name",
            r"plug-in '.*plugin_bad.py' could not be imported \(ModuleNotFoundError: No",
        ),
        ("raise SystemError('first\\nsecond')", r"\(SystemError: first\)"),
        (OPERATOR.format(name="add"), r"plug-in '.*': the steering operator 'add' exists already"),
    ],
)
def test_what_cannot_be_imported_is_one_line(tmp_path, text, message):
    file = written(tmp_path, "plugin_bad", text)
    with pytest.raises(GrainsError, match=message) as caught:
        plugins.load_plugins([str(file)])
    assert "\n" not in str(caught.value)
    assert "plugin_bad" not in sys.modules


def test_missing_files_and_taken_names_are_refused(tmp_path):
    with pytest.raises(GrainsError, match=r"plug-in 'gone.py' is not a file; looked in .* and "):
        plugins.load_plugins(["gone.py"], tmp_path)
    with pytest.raises(GrainsError, match="a module 'json' exists already"):
        plugins.load_plugins([str(written(tmp_path, "json", ""))])


def test_entry_points_are_imported_and_a_broken_one_is_a_warning(tmp_path, monkeypatch, caplog):
    written(tmp_path, "plugin_announced", OPERATOR.format(name="announced"))
    monkeypatch.syspath_prepend(tmp_path)
    found = [
        metadata.EntryPoint("good", "plugin_announced", plugins.GROUP),
        metadata.EntryPoint("bad", "plugin_that_is_gone", plugins.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found if group == plugins.GROUP else [])
    plugins.load_entry_points()
    from grains_eval.steering import OPERATORS

    assert "announced" in OPERATORS
    assert [record.getMessage() for record in caplog.records] == [
        "the plug-in bad (plugin_that_is_gone) could not be imported: No module named 'plugin_that_is_gone'"
    ]


def test_every_command_takes_plugins_and_names_a_bad_one(tmp_path):
    for words in (["show", "x"], ["compare", "a", "b"], ["run", "--tasks", "x"], ["methods"]):
        command = [sys.executable, "-m", "grains_eval.cli", *words, "--plugin", "no_such_plugin"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("grains-eval: plug-in 'no_such_plugin' could not be imported"), last
