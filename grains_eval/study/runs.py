"""Evaluations as ordinary lm-eval results folders; one that is already there is not run again."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grains_eval import plugins
from grains_eval.errors import GrainsError
from grains_eval.examples import task_manager
from grains_eval.files import write_file
from grains_eval.harness.arguments import AppliedArtifact, parse_steering
from grains_eval.harness.evaluate import evaluate, write_run
from grains_eval.harness.sweep import evaluate_settings
from grains_eval.recipes import Recipe
from grains_eval.study.provenance import weights_fingerprint
from grains_eval.study.session import Session, load_lm

logger = logging.getLogger(__name__)

NOTE = "run.json"
_EXPECTED = (GrainsError, RuntimeError, ValueError)  # what ends one run; a full disk ends them all
STARTED = ".started"  # marks a folder of ours whose evaluation is not finished


@dataclass(frozen=True)
class PlannedRun:
    """One evaluation that a study needs.

    Attributes:
        name: Name of its folder and in the tables.
        steering: Steering arguments of `grains_hf`; empty for the unsteered model.
    """

    name: str
    steering: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def artifacts(self) -> tuple[AppliedArtifact, ...]:
        """What steers the run."""
        return parse_steering(**self.steering) if self.steering else ()


def run_all(
    folder: Path, recipe: Recipe, planned: Sequence[PlannedRun], session: Session, *, overwrite: bool = False
) -> tuple[dict[str, Path], dict[str, str]]:
    """Evaluate the recipe's tasks under every planned run, vectors together in one pass over the shared contexts.

    Args:
        folder: Each run becomes `folder/<name>`.
        recipe: Its `evaluation` section names tasks and preserved tasks.
        planned: The runs.
        session: An opened session.
        overwrite: Run again where another evaluation is in the way.

    Returns:
        Folders of the runs that are there now, in the planned order, and the reason for each that failed.

    Raises:
        GrainsError: the recipe evaluates nothing, another evaluation is in the way, or the first run failed.
    """
    tasks = [*recipe.evaluation.tasks, *recipe.evaluation.preserve]
    if not tasks:
        raise GrainsError("the recipe evaluates nothing; list tasks under evaluation.tasks")
    failures: dict[str, str] = {}
    missing: list[_MissingRun] = []
    weights = weights_fingerprint(session.loaded.model)
    for run in planned:
        try:
            artifacts = run.artifacts()
        except GrainsError as error:
            failures[run.name] = str(error)
            continue
        note = {**_note(tasks, recipe, session.model_args, run, artifacts), "weights": weights}
        if plugins.digests():
            note["plugins"] = dict(plugins.digests())
        if session.engine is not None:
            note["scored_by"] = session.engine.registered_name
            note["backend_args"] = {key: str(value) for key, value in sorted(session.backend.arguments.items())}
        if _is_there(folder / run.name, note, overwrite):
            logger.info("%s is there already", folder / run.name)
        else:
            missing.append(_MissingRun(run, artifacts, folder / run.name, note))
    together = [each for each in missing if all(item.is_shown for item in each.artifacts)]
    failures |= _evaluate_together(together, recipe, tasks, session)
    failures |= _evaluate_alone([each for each in missing if each not in together], recipe, tasks, session)
    if planned and planned[0].name in failures:
        raise GrainsError(f"the evaluation of '{planned[0].name}' failed: {failures[planned[0].name]}")
    there = {run.name: folder / run.name for run in planned if (folder / run.name / NOTE).is_file()}
    if session.loaded.scorer.rank == 0:
        lost = [run.name for run in planned if run.name not in there and run.name not in failures]
        failures.update(dict.fromkeys(lost, "its evaluation gave no results"))
    return there, failures


@dataclass(frozen=True)
class _MissingRun:
    """A run that is still to be evaluated.

    Attributes:
        run: What was planned.
        artifacts: What steers it.
        folder: Where its results go.
        note: What the evaluation is of.
    """

    run: PlannedRun
    artifacts: tuple[AppliedArtifact, ...]
    folder: Path
    note: Mapping[str, Any]

    def keep(self, results: dict[str, Any], session: Session) -> None:
        """Write what an evaluation gave; nothing where another process of a distributed run reports."""
        if results:
            arguments = {**session.model_args, **session.backend.arguments, **self.run.steering}
            name = session.loaded.scorer.registered_name
            config = {**results["config"], "model": name, "model_args": arguments}
            _write(self.folder, {**results, "config": config}, self.note)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What lm-eval's `simple_evaluate` is told besides model and tasks."""
    return {
        "limit": recipe.evaluation.limit,
        "apply_chat_template": recipe.data.chat_template,
        "fewshot_as_multiturn": recipe.data.chat_template,
        "bootstrap_iters": 0,
    }


def _evaluate_together(
    missing: Sequence[_MissingRun], recipe: Recipe, tasks: Sequence[str], session: Session
) -> dict[str, str]:
    """Evaluate the plain model, vectors and found tokens in one pass; where that fails, one after another.

    Returns:
        The reason for each run that failed.
    """
    failures: dict[str, str] = {}
    finished: set[str] = set()
    manager = task_manager(tasks, session.include_path, recipe.data.metadata)

    def keep(each: _MissingRun, results: dict[str, Any]) -> None:
        each.keep(results, session)
        finished.add(each.run.name)

    batches = [missing, *([each] for each in missing)] if len(missing) > 1 else [missing]
    for batch in batches:
        left = [each for each in batch if each.run.name not in finished]
        try:
            if left:
                evaluate_settings(
                    session.loaded.scorer,
                    [each.artifacts for each in left],
                    tasks,
                    task_manager=manager,
                    log_samples=True,
                    on_result=lambda index, results, left=left: keep(left[index], results),
                    **_settings(recipe),
                )
        except _EXPECTED as error:
            if len(left) == 1:
                failures[left[0].run.name] = " ".join(str(error).split())
    return failures


def _evaluate_alone(
    missing: Sequence[_MissingRun], recipe: Recipe, tasks: Sequence[str], session: Session
) -> dict[str, str]:
    """Evaluate what changes weights or prompts, with a model of its own or on the engine; why those failed that did."""
    failures: dict[str, str] = {}
    engine = session.engine
    for each in missing:
        try:
            if engine is not None:
                engine.steer(each.artifacts)
            lm = engine or load_lm({**session.model_args, **each.run.steering})
            metadata = recipe.data.metadata
            results = evaluate(lm, tasks, include_path=session.include_path, metadata=metadata, **_settings(recipe))
            each.keep(results, session)
        except _EXPECTED as error:
            failures[each.run.name] = " ".join(str(error).split())
        finally:
            if engine is not None:
                engine.steer(())
    return failures


def _note(
    tasks: Sequence[str],
    recipe: Recipe,
    model_args: Mapping[str, Any],
    run: PlannedRun,
    artifacts: Sequence[AppliedArtifact],
) -> dict[str, Any]:
    """What an evaluation was of; vectors that were built anew make another evaluation."""
    described = [item.describe() for item in artifacts]
    return {
        "tasks": list(tasks),
        "limit": recipe.evaluation.limit,
        "chat_template": recipe.data.chat_template,
        "metadata": recipe.data.metadata,
        "model": {key: str(value) for key, value in sorted(model_args.items())},
        "steering": {key: str(value) for key, value in sorted(run.steering.items()) if key != "vectors"},
        "artifacts": [
            {key: str(value) for key, value in sorted(one.items()) if key not in {"vectors", "doc_hashes"}}
            for one in described
        ],
    }


def _is_there(folder: Path, note: Mapping[str, Any], overwrite: bool) -> bool:
    file = folder / NOTE
    if not file.is_file():
        if folder.exists() and any(folder.iterdir()) and not (folder / STARTED).is_file():
            raise GrainsError(f"'{folder}' is not a run of a comparison; choose another --output_path")
        _remove(folder)  # an evaluation that was cut off
        return False
    if not overwrite and json.loads(file.read_text(encoding="utf-8")) == note:
        (folder / STARTED).unlink(missing_ok=True)
        return True
    if not overwrite:
        raise GrainsError(f"'{folder}' holds another evaluation; choose another --output_path or pass --overwrite")
    (folder / STARTED).touch()
    file.unlink()
    _remove(folder)
    return False


def _remove(folder: Path) -> None:
    """Remove an evaluation; what says that it is one goes last, as this may be cut off too."""
    for each in folder.iterdir() if folder.is_dir() else ():
        if each.name != STARTED:
            shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, results: dict[str, Any], note: Mapping[str, Any]) -> None:
    """Write a finished evaluation, whole or not at all.

    Raises:
        OSError: the disk is full, or something else that no other run would survive.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STARTED).touch()
        write_run(results, folder)
        write_file(folder / NOTE, json.dumps(note, indent=2) + "\n")
        (folder / STARTED).unlink()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
