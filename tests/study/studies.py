"""Studies as tests start them: from model arguments and a folder."""

from __future__ import annotations

from grains_eval.recipes import load_recipe
from grains_eval.study.build import build_from_recipe
from grains_eval.study.compare import compare_methods
from grains_eval.study.session import OutputFolder, Session
from grains_eval.tasks_path import task_directory

SMALL = ["data.examples=24", "data.development=8", "evaluation.control_draws=2", "evaluation.limit=60"]


def demo_recipe(*overrides):
    return load_recipe(task_directory() / "demo" / "text_split" / "recipe.yaml", [*SMALL, *overrides])


def build(recipe, model_args, folder, *, overwrite=False, loaded=None, examples=None):
    session = Session(model_args, lm=loaded.lm if loaded is not None else None)
    return build_from_recipe(recipe, session, OutputFolder(folder, overwrite), examples=examples)


def compare(recipe, model_args, folder, *, overwrite=False, resume=False, **options):
    return compare_methods(recipe, Session(model_args), OutputFolder(folder, overwrite, resume), **options)
