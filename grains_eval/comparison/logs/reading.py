"""From paths to runs: which tool wrote a folder or file, and several evaluations of one model put together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from grains_eval.comparison.conditions import model_differences, steering_differences
from grains_eval.comparison.logs import inspect_ai, lm_eval, lmms_eval
from grains_eval.comparison.logs.judged import without_stale
from grains_eval.comparison.logs.shapes import BY_TASK
from grains_eval.comparison.runs import Evaluation, Run, leaf_tasks, name_runs
from grains_eval.errors import GrainsError


class _Reader(Protocol):
    """What the module of a tool offers."""

    TOOL: str
    WRITES: str

    def files(self, place: Path) -> list[Path]:
        """Files with an evaluation, the newest first; none where the tool did not write this."""
        ...

    def open_file(self, file: Path) -> Evaluation:
        """Read one of them."""
        ...

    def name(self, place: Path, run: Run) -> str:
        """What a run is called that was given as this path."""
        ...


# What a file is taken for: the first that says so; lm_eval takes any.
_READERS: tuple[_Reader, ...] = (inspect_ai, lmms_eval, lm_eval)


def read_run(path: str | Path, name: str | None = None) -> Run:
    """Open a run: a results file or log, or a folder that holds the evaluations of one model.

    Tools write a file per evaluation. Of a folder all are read: each task from the newest that evaluated it, where
    steering, model and prompts were those of the newest. The others are named in `notes`.

    Args:
        path: What was given to `lm_eval --output_path` or `lmms_eval --output_path`, a folder or file in it; a log of
            Inspect (`.eval` or `.json`), or a folder with the logs of one model.
        name: How to call it; default: what steered it, else the folder's name.

    Raises:
        GrainsError: nothing there, evaluations of several models or tools, or a damaged file.
    """
    place = Path(path)
    reader, files = _found(place)
    first, *others = files
    newest = reader.open_file(first)
    run = Run(
        name or "",
        newest.tool,
        newest.file,
        newest.results,
        newest.digest,
        dict.fromkeys(newest.results.get("configs", ()), newest),
        newest.notes,
    )
    for file in others:
        run = _with(run, reader, file)
    run = without_stale(run)
    return run if name else replace(run, name=reader.name(place, run))


def read_runs(
    paths: Sequence[str | Path] | Mapping[str, str | Path], *, keep_going: bool = False
) -> tuple[list[Run], dict[str, str]]:
    """Open several runs, the baseline first.

    Args:
        paths: Run folders; a mapping also names them.
        keep_going: Go on without a run that cannot be read, unless it is the baseline.

    Returns:
        The runs, each with a name of its own, and the reasons by name of those that could not be read.

    Raises:
        GrainsError: a run that cannot be read, none at all, or one that is given twice without names of its own.
    """
    named = list(paths.items()) if isinstance(paths, Mapping) else [(None, path) for path in paths]
    runs: list[Run] = []
    failed: dict[str, str] = {}
    for name, path in named:
        try:
            runs.append(read_run(path, name))
        except GrainsError as error:
            if not keep_going or not runs:
                raise
            failed[name or Path(path).name] = str(error)
    if not runs:
        raise GrainsError("compare needs at least two runs: the baseline first, then the others")
    if not isinstance(paths, Mapping):  # a run may stand twice under names of its own
        runs = [replace(run, name=name) for run, name in zip(runs, name_runs(runs), strict=True)]
        _refuse_twice(runs)
    return runs, failed


def _found(place: Path) -> tuple[_Reader, list[Path]]:
    """The reader for a path, and what it is to read."""
    if not place.exists():
        if files := lm_eval.dated(place):
            return lm_eval, files
        raise GrainsError(
            f"run '{place}' does not exist; give a folder that lm_eval --output_path wrote, or a log of Inspect"
        )
    if place.is_file():
        return next((reader, files) for reader in _READERS if (files := reader.files(place)))
    found = [(reader, files) for reader in _READERS if (files := reader.files(place))]
    if not found:
        raise GrainsError(f"'{place}' holds no {', no '.join(reader.WRITES for reader in reversed(_READERS))}")
    if len(found) > 1:
        tools = " and ".join(reader.TOOL for reader, _ in found)
        raise GrainsError(f"'{place}' holds runs of {tools}; give a folder or file in it")
    return found[0]


def _refuse_twice(runs: Sequence[Run]) -> None:
    seen: dict[Path, str] = {}
    for run in runs:
        file = run.file.resolve()
        if file in seen:
            raise GrainsError(f"'{seen[file]}' and '{run.name}' are the same run, {run.file}; give each run once")
        seen[file] = run.name


def _with(run: Run, reader: _Reader, file: Path) -> Run:
    """The run and the tasks that only an older evaluation in its folder has."""

    def without(reason: str) -> Run:
        return replace(run, notes=(*run.notes, f"{file.name} is left out of '{file.parent.parent.name}': {reason}"))

    try:
        older = reader.open_file(file)
    except GrainsError as error:
        return without("it is not a results file" if reader.TOOL == lm_eval.TOOL else str(error))
    models = [results.get("model_name") for results in (run.results, older.results)]
    if reader.TOOL == inspect_ai.TOOL and models[0] != models[1]:
        raise GrainsError(
            f"'{file.parent}' holds logs of several models ({models[0]}, {models[1]}); give files, or a folder for "
            "each model (inspect eval --log-dir)"
        )
    configs = older.results.get("configs", {})
    tasks = [task for task in older.results["results"] if task in configs and task not in run.tasks]
    if not tasks:
        return without("its tasks were evaluated again")
    others = [*steering_differences(run.results, older.results), *model_differences(run.results, older.results)]
    if others:
        return without(
            f"it evaluated {', '.join(tasks[:3])}{' and more' if tasks[3:] else ''} under other conditions "
            f"({others[0].says(run.file.name, file.name)}); compare it as a run of its own"
        )
    return replace(
        run,
        results=_merged(run.results, older.results, tasks),
        digest=hashlib.sha256(f"{run.digest}{older.digest}".encode()).hexdigest()[:16],
        sources={**dict.fromkeys(tasks, older), **run.sources},
        notes=(*run.notes, *older.notes),
    )


def _merged(newer: Mapping[str, Any], older: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """Results with the tasks of an older evaluation, and those of its groups that hold nothing else."""
    groups = [group for group in older.get("groups", {}) if not set(leaf_tasks(older, group)) <= set(tasks)]
    merged: dict[str, Any] = dict(newer)
    for key in BY_TASK:
        entries = {name: value for name, value in older.get(key, {}).items() if name not in groups}
        if entries or key in merged:
            merged[key] = {**entries, **merged.get(key, {})}
    return merged
