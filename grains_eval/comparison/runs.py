"""Run folders of lm-eval: what was run, and where its samples lie. Nothing of the harness is imported."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from grains_eval.comparison.conditions import model_differences, steering_differences
from grains_eval.comparison.samples import STAMP, SamplesByFilter, read_rows, read_samples
from grains_eval.errors import GrainsError
from grains_eval.questions import Recognised, hidden_hashes

# Entries of the results that have a value per task.
_BY_TASK = (
    "results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
    "task_hashes",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One evaluation.

    Attributes:
        name: How the report calls it.
        file: The results file; of several evaluations, the newest.
        results: Its content; of several evaluations, with the tasks of the older ones.
        digest: First 16 hex digits of the SHA-256 of the results file, or of those of several.
        sources: The results file of each task that is not in `file`.
        notes: Evaluations in the folder that were left out, and why.
        cache: Samples read so far, by task.
        recognised: Held-out documents found so far, by task and what was looked for.
    """

    name: str
    file: Path
    results: Mapping[str, Any]
    digest: str
    sources: Mapping[str, Path] = field(default_factory=dict[str, Path])
    notes: tuple[str, ...] = ()
    cache: dict[str, SamplesByFilter] = field(default_factory=dict[str, SamplesByFilter], repr=False)
    recognised: dict[Hashable, Recognised] = field(default_factory=dict[Hashable, Recognised], repr=False)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Leaf tasks, in the order of the results."""
        configs = self.results.get("configs", {})
        return tuple(name for name in self.results.get("results", {}) if name in configs)

    @property
    def files(self) -> tuple[Path, ...]:
        """The results files that were read, the newest first."""
        return tuple(dict.fromkeys([self.file, *self.sources.values()]))

    @property
    def steering(self) -> tuple[Mapping[str, Any], ...]:
        """What steered the run; empty for a plain model."""
        found = self.results.get("config", {}).get("steering") or ()
        entries = [found] if isinstance(found, Mapping) else found
        return tuple(cast(Mapping[str, Any], entry) for entry in entries if isinstance(entry, Mapping))

    @property
    def instructed(self) -> bool:
        """Whether the run is a prompting baseline, whose prompts differ by design."""
        return any(entry.get("instruction") for entry in self.steering)

    @property
    def kinds(self) -> frozenset[str]:
        """What the artifacts that steered the run were made for (`types.Kind`); empty where none says."""
        return frozenset(str(entry["kind"]) for entry in self.steering if entry.get("kind"))

    def declared(self, role: str) -> tuple[str, ...]:
        """Tasks and groups that the recipes behind the run's artifacts declare.

        Args:
            role: `tasks`, which are to improve, or `preserve`, whose score must not fall.
        """
        sections = [entry.get("evaluation") for entry in self.steering]
        return tuple(name for section in sections if isinstance(section, Mapping) for name in section.get(role) or ())

    def held_out_from(self) -> frozenset[str]:
        """Hashes of the documents that built or tuned what steered the run, and of their texts."""
        used = [entry.get("doc_hashes") for entry in self.steering]
        return frozenset[str]().union(*(hidden_hashes(each) for each in used if isinstance(each, Mapping)))

    def setting(self, *path: str) -> Any:
        """A value of the results by path, None where it is missing."""
        value: Any = self.results
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def samples(self, task: str) -> SamplesByFilter:
        """The task's samples by filter, ordered by document.

        Raises:
            GrainsError: no samples were logged, or not all of them are there.
        """
        if task not in self.cache:
            results, expected = self.sources.get(task, self.file), self.setting("n-samples", task, "effective")
            self.cache[task] = read_samples(results, self.name, task, expected)
        return self.cache[task]

    def rows(self, task: str) -> list[dict[str, Any]]:
        """The task's samples as they were logged.

        Raises:
            GrainsError: no samples were logged, or a line is damaged.
        """
        return read_rows(self.sources.get(task, self.file), self.name, task)


def read_run(path: str | Path, name: str | None = None) -> Run:
    """Open a run: a results file, or a folder that holds the evaluations of one model.

    lm_eval writes a results file per evaluation. Of a folder all are read: each task from the newest that evaluated it,
    where steering, model and prompts were those of the newest. The others are named in `notes`.

    Args:
        path: What was given to `lm_eval --output_path`, or a folder or file in it.
        name: How to call it; default: what steered it, else the folder's name.

    Raises:
        GrainsError: nothing there, results of several models, or a damaged file.
    """
    place = Path(path)
    if place.exists():
        files = [place] if place.is_file() else _evaluations(place)
    elif place.suffix == ".json" and (stamped := sorted(place.parent.glob(f"{place.stem}_*.json"))):
        files = stamped[-1:]  # lm_eval adds the date to a file name
    else:
        raise GrainsError(f"run '{path}' does not exist; give a folder that lm_eval --output_path wrote")
    results, digest = _read(files[0])
    run = Run(name or "", files[0], results, digest)
    for file in files[1:]:
        run = _with(run, file)
    return run if name else replace(run, name=_name(place, run))


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


def _refuse_twice(runs: Sequence[Run]) -> None:
    seen: dict[Path, str] = {}
    for run in runs:
        file = run.file.resolve()
        if file in seen:
            raise GrainsError(f"'{seen[file]}' and '{run.name}' are the same run, {run.file}; give each run once")
        seen[file] = run.name


def _read(file: Path) -> tuple[dict[str, Any], str]:
    try:
        content = file.read_bytes()
        results = json.loads(content)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise GrainsError(f"'{file}' is not a results file: {error}") from error
    if not isinstance(results, dict) or not isinstance(results.get("results"), dict):
        raise GrainsError(f"'{file}' is not a results file of lm_eval: it has no 'results'")
    return _bare_names(cast(dict[str, Any], results)), hashlib.sha256(content).hexdigest()[:16]


def _bare_names(results: dict[str, Any]) -> dict[str, Any]:
    """Results whose tasks go by their own names: lm_eval 0.5 writes `group::task` where a group was asked for.

    A name that several entries would have is left as it is.
    """
    often = Counter(name.rpartition("::")[2] for name in results["results"])
    bare = {name: own for name in results["results"] if often[own := name.rpartition("::")[2]] == 1}
    renamed = {
        key: {bare.get(name, name): value for name, value in results[key].items()}
        for key in _BY_TASK
        if isinstance(results.get(key), dict)
    }
    for group, children in renamed.get("group_subtasks", {}).items():
        renamed["group_subtasks"][group] = [bare.get(str(child), child) for child in children]
    return {**results, **renamed}


def _with(run: Run, file: Path) -> Run:
    """The run and the tasks that only an older evaluation in its folder has."""

    def without(reason: str) -> Run:
        return replace(run, notes=(*run.notes, f"{file.name} is left out of '{file.parent.parent.name}': {reason}"))

    try:
        older, digest = _read(file)
    except GrainsError:
        return without("it is not a results file")
    tasks = [task for task in older["results"] if task in older.get("configs", {}) and task not in run.tasks]
    if not tasks:
        return without("its tasks were evaluated again")
    others = [*steering_differences(run.results, older), *model_differences(run.results, older)]
    if others:
        return without(
            f"it evaluated {', '.join(tasks[:3])}{' and more' if tasks[3:] else ''} under other conditions "
            f"({others[0].says(run.file.name, file.name)}); compare it as a run of its own"
        )
    groups = [group for group in older.get("groups", {}) if not set(leaf_tasks(older, group)) <= set(tasks)]
    merged: dict[str, Any] = dict(run.results)
    for key in _BY_TASK:
        entries = {name: value for name, value in (older.get(key) or {}).items() if name not in groups}
        if entries or key in merged:
            merged[key] = {**entries, **(merged.get(key) or {})}
    digest = hashlib.sha256(f"{run.digest}{digest}".encode()).hexdigest()[:16]
    return replace(run, results=merged, digest=digest, sources={**dict.fromkeys(tasks, file), **run.sources})


def leaf_tasks(results: Mapping[str, Any], group: str) -> tuple[str, ...]:
    """The leaf tasks under a group, through nested groups; empty when it is not a group."""
    children = (results.get("group_subtasks") or {}).get(group)
    if not isinstance(children, list):
        return ()
    leaves: list[str] = []
    for child in cast(list[Any], children):
        leaves.extend(leaf_tasks(results, str(child)) or (str(child),))
    return tuple(dict.fromkeys(leaves))


def _evaluations(folder: Path) -> list[Path]:
    """The results files of a folder, the newest first."""
    files = {file: match.group(1) for file in folder.rglob("*.json") if (match := STAMP.search(file.name))}
    if not files:
        raise GrainsError(f"'{folder}' holds no results_*.json; give an --output_path of lm_eval")
    places = {file.parent for file in files}
    # older results of Python runs lie in "None" instead of a folder with the model's name
    old = {
        place for place in places if place.name == "None" and any(o.parent == place.parent for o in places - {place})
    }
    homes = sorted(places - old)
    if len(homes) > 1:
        names = ", ".join(str(home.relative_to(folder)) for home in homes[:4])
        raise GrainsError(f"'{folder}' holds several runs ({names}); give one of them")
    return sorted(files, key=lambda file: files[file], reverse=True)


def _name(place: Path, run: Run) -> str:
    """What the run is called: the folder that was given, or the one around a file or around the model's folder."""
    folder = place.resolve() if place.is_dir() else run.file.resolve().parent
    return folder.parent.name if folder.name in {"None", run.setting("model_name_sanitized")} else folder.name


def method_of(run: Run) -> str:
    """The methods that steered a run, joined; empty for a plain model."""
    return " + ".join(str(entry["method"]) for entry in run.steering if entry.get("method"))


def name_runs(runs: Sequence[Run]) -> list[str]:
    """Names for a table: the folder's, and the method that steered the run where the folder's name does not contain it.

    A name depends on the run alone, so that a third run does not rename the second.
    """
    names: list[str] = []
    for run in runs:
        method = method_of(run)
        names.append(run.name if method.lower() in run.name.lower() else f"{run.name} ({method})")
    seen: dict[str, int] = {}
    unique: list[str] = []
    for label in names:
        seen[label] = seen.get(label, 0) + 1
        unique.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return unique
