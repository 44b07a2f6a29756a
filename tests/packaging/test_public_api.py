"""`import grains_eval` costs nothing, and what it promises is there."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import grains_eval

HEAVY = (
    "torch",
    "transformers",
    "lm_eval",
    "captum",
    "pandas",
    "scipy",
    "matplotlib",
    "datasets",
    "pydantic",
)


def loaded_after(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_root_import_loads_nothing_heavy():
    assert not loaded_after("import grains_eval; grains_eval.GrainsError").intersection(HEAVY)


def test_report_needs_no_torch():
    assert not loaded_after("import grains_eval.report").intersection(("torch", "transformers", "lm_eval"))


@pytest.mark.parametrize("name", grains_eval.__all__)
def test_every_public_name_resolves(name):
    found = getattr(grains_eval, name)
    assert found is not None and not isinstance(found, ModuleType), "a module of the same name hides it"
    assert name in dir(grains_eval)


def test_type_checkers_see_the_same_homes_as_the_interpreter():
    tree = ast.parse(Path(grains_eval.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for node in block.body:
        for alias in node.names:
            public = alias.asname or alias.name
            home = node.module.removeprefix("grains_eval.")
            seen[public] = home if public == alias.name else f"{home}:{alias.name}"
    assert seen == grains_eval._HOMES
    assert {*seen, "__version__"} == set(grains_eval.__all__)


def test_an_unknown_name_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'steerd'"):
        grains_eval.steerd  # noqa: B018
