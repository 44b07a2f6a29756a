"""Build methods, evaluate them beside the unsteered model and the controls, and report once on held-out items."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grains_eval.artifacts.load import load_vectors, open_artifact
from grains_eval.comparison.checks import check_levels
from grains_eval.errors import GrainsError
from grains_eval.examples import Examples, load_examples
from grains_eval.harness.model import SteeringMixin
from grains_eval.models import LoadedModel
from grains_eval.recipes import Recipe
from grains_eval.report import compare_runs
from grains_eval.report.data import ReportData
from grains_eval.report.write import refuse_existing
from grains_eval.study.build import build_from_recipe, model_identity
from grains_eval.study.controls import Controls, moves, write_all_controls
from grains_eval.study.loading import load_lm
from grains_eval.study.methods import default_methods, method_recipe
from grains_eval.study.report_parts import development_curves, development_tables, token_maps
from grains_eval.study.runs import PlannedRun, run_all
from grains_eval.vectors.context import silent

logger = logging.getLogger(__name__)

BASELINE = "baseline"
SCORES = "attributions.partial"  # of all variants, so that those that differ elsewhere share them; gone at the end
VOCABULARY = "vocabulary"


def compare_methods(
    recipe: Recipe,
    model_args: Mapping[str, Any],
    output_path: str | Path,
    console: Any = None,
    *,
    methods: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[Sequence[Any], str], Iterable[Any]] = silent,
    include_path: Sequence[str] = (),
    **report: Any,
) -> ReportData:
    """Compare methods by name; see `compare_variants`.

    Args:
        recipe: The behaviour.
        model_args: lm-eval's model arguments.
        output_path: Where vectors, runs and the report go.
        console: A rich console to print the tables to.
        methods: Names of methods or of variants in the recipe; default: all that the recipe can feed.
        overwrite: Replace what is there.
        progress: Wraps loops, with a description.
        include_path: Folders with the user's own tasks.
        **report: `resume`, and anything else for `report.compare_runs`: `alpha`, `subtasks`, `title`.

    Raises:
        GrainsError: an unknown method, or anything that concerns all methods alike.
    """
    names = list(methods or default_methods(recipe))
    return compare_variants(
        recipe,
        {name: method_recipe(recipe, name) for name in names},
        model_args,
        output_path,
        console,
        overwrite=overwrite,
        progress=progress,
        include_path=include_path,
        **report,
    )


def compare_variants(
    recipe: Recipe,
    variants: Mapping[str, Recipe],
    model_args: Mapping[str, Any],
    output_path: str | Path,
    console: Any = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[Sequence[Any], str], Iterable[Any]] = silent,
    include_path: Sequence[str] = (),
    controls: bool = True,
    title: str | None = None,
    lm: SteeringMixin | None = None,
    **report: Any,
) -> ReportData:
    """Build each variant, evaluate all of them in one pass, and write the report.

    Artifacts go to `vectors/<name>`, lm-eval results to `runs/<name>`; what is there already and is the same is used
    again, so that an interrupted comparison goes on where it stopped. A method that fails becomes a row that says so.

    Args:
        recipe: The behaviour: examples, tasks, margins and the number of control draws.
        variants: Recipes by name, the most important first; controls stand beside each setting that moves anything.
        model_args: lm-eval's model arguments.
        output_path: Where vectors, runs and the report go.
        console: A rich console to print the tables to.
        overwrite: Build and evaluate everything again, replacing what is there.
        resume: Take up a finished comparison, with a further method for instance: only its report is replaced.
        progress: Wraps loops, with a description.
        include_path: Folders with the user's own tasks.
        controls: Whether to make controls.
        title: Heading of the report.
        lm: The plain model, if it is loaded already.
        **report: Anything else for `report.compare_runs`.

    Raises:
        GrainsError: anything that concerns all variants alike.
    """
    check_levels(report.get("alpha", 0.05))  # not after the evaluations
    output = Path(output_path)
    if not overwrite and not resume:
        refuse_existing(output, "pass --resume to go on with it, --overwrite to begin anew, or another --output_path")
    if overwrite:
        shutil.rmtree(output / SCORES, ignore_errors=True)
    lm = lm or load_lm(model_args)
    loaded = LoadedModel.of(lm)
    examples = load_examples(recipe.data, loaded, include_path)
    failures: dict[str, str] = {}
    built: dict[str, Path] = {}
    wanted = dict(variants)
    if controls and VOCABULARY not in wanted:
        wanted[VOCABULARY] = method_recipe(recipe, VOCABULARY)
    drawn = {
        name: examples if one.data == recipe.data else load_examples(one.data, loaded, include_path)
        for name, one in wanted.items()
    }
    for name, variant in wanted.items():
        folder = output / "vectors" / name
        if not overwrite and folder.exists() and not _is_same(folder, variant, model_args, loaded, drawn[name]):
            raise GrainsError(
                f"'{folder}' holds another recipe's, model's or data's vectors; "
                "choose another --output_path or pass --overwrite"
            )
    for name, variant in wanted.items():
        folder = output / "vectors" / name
        try:
            if overwrite or not folder.exists():
                build_from_recipe(
                    variant,
                    model_args,
                    folder,
                    overwrite=overwrite,
                    progress=progress,
                    include_path=include_path,
                    loaded=loaded,
                    examples=drawn[name],
                    scores=output / SCORES,
                )
            built[name] = folder
        except (GrainsError, RuntimeError, ValueError) as error:
            failures[name] = " ".join(str(error).split())
            logger.warning("%s failed: %s", name, failures[name])
    if not set(variants) & set(built):
        raise GrainsError(f"no method could be built; {next(iter(variants))}: {failures[next(iter(variants))]}")
    extra = Controls()
    if controls:
        extra = write_all_controls(built, wanted, drawn, VOCABULARY, loaded, output / "vectors", progress)
    if VOCABULARY not in variants and VOCABULARY in built and not moves(load_vectors(built[VOCABULARY])):
        extra = replace(extra, notes=(*extra.notes, f"{VOCABULARY}: left out, since it moves nothing"))
        del built[VOCABULARY]
    shown = [name for name in (*wanted, *extra.names) if name in built or name in extra.names]
    planned = [PlannedRun(BASELINE), *(PlannedRun(n, {"vectors": str(output / "vectors" / n)}) for n in shown)]
    there, failed = run_all(
        output / "runs", recipe, model_args, planned, lm, include_path=include_path, overwrite=overwrite
    )
    folders = [built[name] for name in built]
    made = compare_runs(
        there,
        output,
        console,
        overwrite=True,
        margin=recipe.evaluation.margin,
        groups=recipe.evaluation.groups,
        headline_metrics=recipe.evaluation.metrics,
        targets=recipe.evaluation.tasks,
        preserve=recipe.evaluation.preserve,
        bands=extra.bands,
        beside=extra.beside,
        failures={**failures, **failed},
        keep_going=True,
        title=title or f"{recipe.name}: {', '.join(variants)}",
        curves=[*development_curves(folders), *report.pop("curves", ())],
        token_maps=token_maps(folders),
        tables=development_tables(folders),
        notes=[*extra.notes, *report.pop("notes", ())],
        **report,
    )
    shutil.rmtree(output / SCORES, ignore_errors=True)
    return made


def _is_same(
    folder: Path, recipe: Recipe, model_args: Mapping[str, Any], loaded: LoadedModel, examples: Examples
) -> bool:
    """Whether an artifact is of this recipe, model and data; an edited data file changes no recipe."""
    origin = open_artifact(folder).provenance
    wanted = {"recipe_hash": recipe.fingerprint(), **model_identity(model_args, loaded)}
    # prompting is built from no examples
    used = (origin.get("doc_hashes") or {}).get("build") or examples.doc_hashes()["build"]
    return used == examples.doc_hashes()["build"] and all(origin.get(key) == value for key, value in wanted.items())
