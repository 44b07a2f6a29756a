"""Build methods, evaluate them beside the unsteered model and the controls, and report once on held-out items."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from grains_eval.artifacts.load import load_vectors, open_artifact
from grains_eval.comparison.leaderboards import leaderboard_of
from grains_eval.comparison.logs import read_run
from grains_eval.comparison.settings import Analysis, Question
from grains_eval.errors import GrainsError, NotApplicable
from grains_eval.examples import load_examples
from grains_eval.recipes import Evaluation, Recipe
from grains_eval.report import compare_runs
from grains_eval.report.data import ReportData, Supplement
from grains_eval.report.write import refuse_existing
from grains_eval.study.build import build_from_recipe
from grains_eval.study.controls import Controls, moves, write_all_controls
from grains_eval.study.methods import Variant, default_methods, method_recipe
from grains_eval.study.provenance import model_identity
from grains_eval.study.report_parts import development_curves, development_tables, token_maps
from grains_eval.study.runs import PlannedRun, run_all
from grains_eval.study.session import OutputFolder, Session
from grains_eval.study.token_controls import write_token_controls
from grains_eval.study.unfinished import claimed, forget

logger = logging.getLogger(__name__)

BASELINE = "baseline"
SCORES = "attributions.partial"  # of all variants, so that those that differ elsewhere share them; gone at the end
VOCABULARY = "vocabulary"


def compare_methods(
    recipe: Recipe,
    session: Session,
    output: OutputFolder,
    methods: Sequence[str] | None = None,
    analysis: Analysis = Analysis(),
    supplement: Supplement = Supplement(),
) -> ReportData:
    """Compare methods by name; see `compare_variants`.

    Args:
        recipe: The behaviour.
        session: The model, the user's tasks, console and progress display.
        output: Where vectors, runs and the report go.
        methods: Names of methods or of variants in the recipe; default: all that the recipe can feed.
        analysis: As there, like the following.
        supplement: See there.

    Raises:
        GrainsError: an unknown method, or anything that concerns all methods alike.
    """
    variants = {name: method_recipe(recipe, name) for name in methods or default_methods(recipe)}
    return compare_variants(recipe, variants, session, output, analysis, supplement)


def compare_variants(
    recipe: Recipe,
    variants: Mapping[str, Recipe],
    session: Session,
    output: OutputFolder,
    analysis: Analysis = Analysis(),
    supplement: Supplement = Supplement(),
) -> ReportData:
    """Build each variant, evaluate all of them in one pass, and write the report.

    Artifacts go to `vectors/<name>`, lm-eval results to `runs/<name>`; what is there already and is the same is used
    again, so that an interrupted comparison goes on where it stopped. A method that fails becomes a row that says so.

    Args:
        recipe: The behaviour: examples, tasks, margins and the number of control draws.
        variants: Recipes by name, the most important first; controls stand beside each setting that moves anything.
        session: The model, the user's tasks, console and progress display.
        output: Where vectors, runs and the report go.
        analysis: How runs are compared; what the recipe says of groups comes on top.
        supplement: What the report shows besides; what the study has to show comes on top.

    Raises:
        GrainsError: anything that concerns all variants alike, or another process works on the folder.
    """
    if not output.overwrite and not output.resume:
        go_on = "pass --resume to go on with it, --overwrite to begin anew, or another --output_path"
        refuse_existing(output.path, go_on)
    with claimed(output.path):
        return _compare(recipe, variants, session, output, analysis, supplement)


def _compare(
    recipe: Recipe,
    variants: Mapping[str, Recipe],
    session: Session,
    output: OutputFolder,
    analysis: Analysis,
    supplement: Supplement,
) -> ReportData:
    """`compare_variants` in a folder that is this process's alone."""
    if output.overwrite:
        shutil.rmtree(output.path / SCORES, ignore_errors=True)
    if taken := next((name for name in variants if name == BASELINE or not _is_folder_name(name)), None):
        raise GrainsError(
            f"a method cannot be called '{taken}'; name it with letters, digits and _ . = - only, and not "
            f"'{BASELINE}', which is the unsteered model"
        )
    session = session.opened()
    recipes = dict(variants)
    recipes.setdefault(VOCABULARY, method_recipe(recipe, VOCABULARY))
    wanted = _prepare(recipe, recipes, session, output)
    failures, absent = _build_all(wanted, session, output)
    unbuilt = failures | absent
    built = {name: variant for name, variant in wanted.items() if name not in unbuilt}
    if not set(variants) & set(built):
        raise GrainsError(f"no method could be built; {next(iter(variants))}: {unbuilt[next(iter(variants))]}")
    controls = _controls(built, session, output.path / "vectors")
    if VOCABULARY not in variants and VOCABULARY in built and not moves(load_vectors(built[VOCABULARY].folder)):
        controls = replace(controls, notes=(*controls.notes, f"{VOCABULARY}: left out, since it moves nothing"))
        del built[VOCABULARY]
    if clash := set(variants) & set(controls.names):
        raise GrainsError(f"'{min(clash)}' is the name of a control that is made here; give the method another name")
    artifacts = [variant.folder for variant in built.values()]
    places = [*artifacts, *(output.path / "vectors" / name for name in controls.names)]
    planned = [PlannedRun(BASELINE), *(PlannedRun(place.name, {"vectors": str(place)}) for place in places)]
    there, failed = run_all(output.path / "runs", recipe, planned, session, overwrite=output.overwrite)
    shutil.rmtree(output.path / SCORES, ignore_errors=True)
    evaluation = recipe.evaluation
    return compare_runs(
        there,
        output.path,
        session.console,
        analysis=_analysis(analysis, evaluation, there),
        question=Question(
            evaluation.tasks, evaluation.preserve, evaluation.margin, evaluation.metrics, beside=controls.beside
        ),
        supplement=replace(
            supplement,
            title=supplement.title or f"{recipe.name}: {', '.join(variants)}",
            notes=controls.notes,
            tables=development_tables(artifacts),
            curves=[*development_curves(artifacts), *supplement.curves],
            token_maps=token_maps(artifacts),
            failures={**failures, **failed},
            absent=absent,
            bands=controls.bands,
        ),
        overwrite=True,
        keep_going=True,
    )


def _analysis(analysis: Analysis, evaluation: Evaluation, runs: Mapping[str, Path]) -> Analysis:
    """The analysis with what the recipe says of groups; a leaderboard among its tasks gets that leaderboard's rows."""
    analysis = replace(analysis, groups=evaluation.groups)
    board = leaderboard_of([*evaluation.tasks, *evaluation.preserve])
    return analysis if board is None else replace(analysis, leaderboard=board, tasks=read_run(runs[BASELINE]).tasks)


def _prepare(
    recipe: Recipe, variants: Mapping[str, Recipe], session: Session, output: OutputFolder
) -> dict[str, Variant]:
    """Draw the examples of every variant, and refuse artifacts of others before anything is written.

    Raises:
        GrainsError: a folder holds another recipe's, model's or data's vectors.
    """
    shared = load_examples(recipe.data, session.loaded, session.include_path)
    prepared: dict[str, Variant] = {}
    for name, variant in variants.items():
        own = variant.data != recipe.data
        examples = load_examples(variant.data, session.loaded, session.include_path) if own else shared
        prepared[name] = Variant(variant, output.path / "vectors" / name, examples)
    if not output.overwrite:
        for variant in prepared.values():
            if variant.folder.exists() and not _is_same(variant, session):
                raise GrainsError(
                    f"'{variant.folder}' holds another recipe's, model's or data's vectors; "
                    "choose another --output_path or pass --overwrite"
                )
    return prepared


def _is_same(variant: Variant, session: Session) -> bool:
    """Whether the artifact is of this recipe, model and data; an edited data file changes no recipe."""
    origin = open_artifact(variant.folder).provenance
    identity = model_identity(session.model_args, session.loaded)
    wanted = {"recipe_hash": variant.recipe.fingerprint(), **identity}
    documents = variant.examples.doc_hashes()["build"]
    # prompting is built from no examples
    used = (origin.get("doc_hashes") or {}).get("build") or documents
    origin = {"plugins": {}, **origin}  # artifacts from before there were any
    return used == documents and all(origin.get(key) == value for key, value in wanted.items())


def _build_all(
    variants: Mapping[str, Variant], session: Session, output: OutputFolder
) -> tuple[dict[str, str], dict[str, str]]:
    """Build every variant that is not there; the reasons of those that fail, and of those that do not apply here."""
    failures, absent = dict[str, str](), dict[str, str]()
    for name, variant in variants.items():
        if variant.folder.exists() and not output.overwrite:
            forget(variant.folder)
            continue
        place = OutputFolder(variant.folder, overwrite=output.overwrite)
        try:
            build_from_recipe(variant.recipe, session, place, examples=variant.examples, scores=output.path / SCORES)
        except NotApplicable as error:
            absent[name] = " ".join(str(error).split())
            logger.warning("%s is left out: %s", name, absent[name])
        except (GrainsError, RuntimeError, ValueError) as error:
            failures[name] = " ".join(str(error).split())
            logger.warning("%s failed: %s", name, failures[name])
    return failures, absent


def _controls(built: Mapping[str, Variant], session: Session, folder: Path) -> Controls:
    """Controls at every setting at which vectors move something, and of the first found tokens."""
    of_vectors = write_all_controls(built, VOCABULARY, session, folder)
    first = next((name for name, variant in built.items() if _finds_tokens(variant.folder)), None)
    if first is None:
        return of_vectors
    made = write_token_controls(first, built[first], session, folder)
    return Controls(
        (*of_vectors.names, *made.names),
        {**of_vectors.bands, **made.bands},
        {**of_vectors.beside, **made.beside},
        (*of_vectors.notes, *made.notes),
    )


def _finds_tokens(folder: Path) -> bool:
    """Whether an artifact holds found tokens that something is claimed for."""
    artifact = open_artifact(folder)
    return artifact.tokens is not None and artifact.provenance.get("kind") != "control"


def _is_folder_name(name: str) -> bool:
    return not name.startswith(".") and all(letter.isalnum() or letter in "_.=-" for letter in name)
