"""Evaluations as ordinary lm-eval results folders; one that is already there is not run again."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grains_eval.errors import GrainsError
from grains_eval.harness.arguments import AppliedArtifact, parse_steering
from grains_eval.harness.evaluate import evaluate, write_run
from grains_eval.harness.model import SteeringMixin
from grains_eval.harness.sweep import evaluate_settings
from grains_eval.preferences import task_manager
from grains_eval.recipes import Recipe
from grains_eval.study.build import weights_fingerprint
from grains_eval.study.loading import load_lm

logger = logging.getLogger(__name__)

NOTE = "run.json"
_EXPECTED = (GrainsError, RuntimeError, ValueError)  # what ends one run; a full disk ends them all
STARTED = ".started"  # marks a folder of ours whose evaluation is not finished


@dataclass(frozen=True)
class PlannedRun:
    """One evaluation to be had.

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
    folder: Path,
    recipe: Recipe,
    model_args: Mapping[str, Any],
    planned: Sequence[PlannedRun],
    lm: SteeringMixin,
    *,
    include_path: Sequence[str] = (),
    overwrite: bool = False,
) -> tuple[dict[str, Path], dict[str, str]]:
    """Evaluate the recipe's tasks under every planned run, vectors together in one pass over the shared contexts.

    Args:
        folder: Each run becomes `folder/<name>`.
        recipe: Its `evaluation` section names tasks and preserved tasks.
        model_args: lm-eval's model arguments, without steering.
        planned: The runs.
        lm: The plain model.
        include_path: Folders with the user's own tasks.
        overwrite: Run again where another evaluation is in the way.

    Returns:
        Folders of the runs that are there now, in the planned order, and the reason for each that failed.

    Raises:
        GrainsError: the recipe evaluates nothing, another evaluation is in the way, or the first run failed.
    """
    tasks = [*recipe.evaluation.tasks, *recipe.evaluation.preserve]
    if not tasks:
        raise GrainsError("the recipe evaluates nothing; list tasks under evaluation.tasks")
    shared: list[tuple[PlannedRun, tuple[AppliedArtifact, ...]]] = []
    alone: list[PlannedRun] = []
    failures: dict[str, str] = {}
    notes: dict[str, dict[str, Any]] = {}
    weights = weights_fingerprint(lm.model)
    for run in planned:
        try:
            artifacts = run.artifacts()
        except GrainsError as error:
            failures[run.name] = str(error)
            continue
        notes[run.name] = {**_note(tasks, recipe, model_args, run, artifacts), "weights": weights}
        if _is_there(folder / run.name, notes[run.name], overwrite):
            logger.info("%s is there already", folder / run.name)
        elif all(item.is_shown for item in artifacts):
            shared.append((run, artifacts))
        else:
            alone.append(run)
    options: dict[str, Any] = {
        "limit": recipe.evaluation.limit,
        "apply_chat_template": recipe.data.chat_template,
        "fewshot_as_multiturn": recipe.data.chat_template,
        "bootstrap_iters": 0,
    }
    finished: set[str] = set()

    def keep(run: PlannedRun, results: dict[str, Any]) -> None:
        if results:  # another process of a distributed run reports
            config = {**results["config"], "model": "grains_hf", "model_args": {**model_args, **run.steering}}
            _write(folder / run.name, {**results, "config": config}, notes[run.name])
        finished.add(run.name)

    manager = task_manager(tasks, include_path, recipe.data.metadata)
    # all together; where that fails, the rest one after another, so that the one that fails is known
    batches = [shared, *([each] for each in shared)] if len(shared) > 1 else [shared]
    for batch in batches:
        left = [each for each in batch if each[0].name not in finished]
        try:
            if left:
                evaluate_settings(
                    lm,
                    [artifacts for _, artifacts in left],
                    tasks,
                    task_manager=manager,
                    log_samples=True,
                    on_result=lambda index, results, left=left: keep(left[index][0], results),
                    **options,
                )
        except _EXPECTED as error:
            if len(left) == 1:
                failures[left[0][0].name] = " ".join(str(error).split())
    for run in alone:
        try:
            own = load_lm({**model_args, **run.steering})
            keep(run, evaluate(own, tasks, include_path=include_path, metadata=recipe.data.metadata, **options))
        except _EXPECTED as error:
            failures[run.name] = " ".join(str(error).split())
    if planned and planned[0].name in failures:
        raise GrainsError(f"the evaluation of '{planned[0].name}' failed: {failures[planned[0].name]}")
    there = {run.name: folder / run.name for run in planned if (folder / run.name / NOTE).is_file()}
    if lm.rank == 0:
        lost = [run.name for run in planned if run.name not in there and run.name not in failures]
        failures.update(dict.fromkeys(lost, "its evaluation gave no results"))
    return there, failures


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
            raise GrainsError(f"'{folder}' is no run of a comparison; choose another --output_path")
        shutil.rmtree(folder, ignore_errors=True)  # an evaluation that was cut off
        return False
    if not overwrite and json.loads(file.read_text(encoding="utf-8")) == note:
        return True
    if not overwrite:
        raise GrainsError(f"'{folder}' holds another evaluation; choose another --output_path or pass --overwrite")
    shutil.rmtree(folder)
    return False


def _write(folder: Path, results: dict[str, Any], note: Mapping[str, Any]) -> None:
    """Write a finished evaluation, whole or not at all.

    Raises:
        OSError: the disk is full, or something else that no other run would survive.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STARTED).touch()
        write_run(results, folder)
        part = folder / f".{NOTE}.part"
        part.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        part.replace(folder / NOTE)
        (folder / STARTED).unlink()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
