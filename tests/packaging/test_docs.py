"""Every block of code in the pages: commands parse, recipes are recipes, Python runs."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from unittest.mock import MagicMock

import pytest
import yaml
from lm_eval._cli import HarnessCLI

from grains_eval import cli
from grains_eval.artifacts import layout
from grains_eval.demo import model_path
from grains_eval.harness.model import GrainsHF
from grains_eval.judging.rubrics import Rubric
from grains_eval.recipes import Recipe
from grains_eval.vectors.registry import METHODS
from tests.comparison import folders
from tests.packaging.pages import ROOT, blocks, commands, titled

PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "tasks").rglob("README.md"), ROOT / "CONTRIBUTING.md"])
# variables of the shell in front of a command
ASSIGNED = re.compile(r"^\w+=")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def each(language):
    return [
        pytest.param(page, code, id=f"{named(page)}-{number}")
        for page in PAGES
        for number, code in enumerate(blocks(page, language))
    ]


@pytest.mark.parametrize(
    ("page", "words"), [pytest.param(p, w, id=f"{named(p)}: {' '.join(w)}") for p in PAGES for w in commands(p)]
)
def test_every_command_is_one_that_its_program_takes(page, words):
    while ASSIGNED.match(words[0]):
        words = words[1:]
    program, *rest = words
    rest = rest[: rest.index("|")] if "|" in rest else rest
    if program in ("torchrun", "accelerate"):
        # what they launch, past their own flags
        start = next(index for index, word in enumerate(rest) if word in ("grains_eval.cli", "lm_eval", "grains-eval"))
        program, rest = ("lm_eval" if rest[start] == "lm_eval" else "grains-eval"), rest[start + 1 :]
    if program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif program == "grains-eval":
        assert cli.parser().parse_args(rest).execute is cli.NAMES[rest[0]].execute
    elif program == "lm_eval":
        rest = [word for word in rest if word not in ("…", "run")]
        model = HarnessCLI()._parser.parse_args(["run", *rest]).model
        assert model is None or "--model" not in rest or model == rest[rest.index("--model") + 1]
    elif program == "python" and rest[0] != "-m":
        assert rest == list(titled(page, "python"))  # a file that the page gives
    elif program == "python":
        assert find_spec(rest[1]) is not None
    elif program in ("pip", "vllm", "curl", "pre-commit", "hf"):
        pass  # not ours
    else:
        assert (ROOT / program).stat().st_mode & 0o100


@pytest.mark.parametrize(("page", "code"), each("yaml"))
def test_yaml_is_of_a_recipe_a_task_or_a_rubric(page, code):
    found = yaml.safe_load(code)
    if "verdict" in found:
        Rubric.model_validate(found)
    elif "task" in found:
        assert {"output_type", "doc_to_text", "metric_list"} <= set(found)
    elif set(found) == {"metadata"}:
        assert set(found["metadata"]) <= {"version", "cluster_key", "role", "context_key"}
    else:
        Recipe.model_validate({"name": "t", "data": {"task": "t"}, **found})


def of_statistics(number, folder):
    (folder / "runs").mkdir()
    for name, seed in (("baseline", 0), ("a", 1), ("b", 2), ("steered", 3)):
        folders.write_run(folder / "runs" / name, {"mmlu": folders.TaskData({"acc": folders.bits(120, 0.5, seed)})})
    return {}


def of_performance(number, folder):
    lm = GrainsHF(pretrained=str(model_path("text_split")), dtype="float32", device="cpu")
    return {"lm": lm, "weak": (), "strong": ()}


def of_vllm(number, folder):
    return {"client": MagicMock()}


# what a page's Python needs around it; docs/extending.md has tests of its own
AROUND = {
    "in-memory.md": lambda number, folder: {},
    "own-behaviour.md": lambda number, folder: {},
    "statistics.md": of_statistics,
    "performance.md": of_performance,
    "vllm.md": of_vllm,
}
# pages whose blocks go on from one another
ONE_PROGRAM = ("in-memory.md",)
SHORTER = {'["truthfulqa_mc1"])': '["demo_text_split"], limit=2)'}


def programs():
    apart = [one for one in each("python") if one.values[0].name not in ("extending.md", *ONE_PROGRAM)]
    pages = [ROOT / "docs" / name for name in ONE_PROGRAM]
    return [*apart, *(pytest.param(page, "\n".join(blocks(page, "python")), id=named(page)) for page in pages)]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), programs())
def test_python_runs(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    number = 0 if page.name in ONE_PROGRAM else blocks(page, "python").index(code)
    names = {"__name__": page.stem, **AROUND[page.name](number, tmp_path)}
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    # a method that a block registers goes with the test
    monkeypatch.setattr(METHODS, "_entries", {name: METHODS[name] for name in METHODS})
    exec(compile(code, page.name, "exec"), names)


def test_the_reference_names_every_key():
    recipes = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    sections = {name: field.annotation for name, field in Recipe.model_fields.items()}
    for name, kind in sections.items():
        for key in getattr(kind, "model_fields", [name]):
            assert re.search(rf"`(?:{name}\.)?{key}`", recipes), f"{name}.{key}"
    artifacts = (ROOT / "docs" / "artifacts.md").read_text(encoding="utf-8")
    files = (layout.CONFIG, layout.TENSORS, layout.TOKENS, layout.ATTRIBUTIONS, layout.RECIPE, layout.CARD)
    for word in (*files, f"{layout.ADAPTER}/", f"{layout.IMAGES}/", *layout.ArtifactConfig.model_fields):
        assert f"`{word}`" in artifacts, word


def test_the_site_lists_every_command_and_flag():
    page = run_path(str(ROOT / "docs" / "_hooks.py"))["commands_page"]()
    for name in cli.NAMES:
        assert f"### grains-eval {name}\n" in page
    assert "`--config, -C RECIPE`" in page and "`--margin SHARE`" in page
