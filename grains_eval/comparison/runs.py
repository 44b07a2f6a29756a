"""Run folders of lm-eval: what was run, and the logged samples. Nothing of the harness is imported."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from grains_eval.comparison.conditions import model_differences, steering_differences
from grains_eval.errors import GrainsError
from grains_eval.questions import Recognised, hidden_hashes

_STAMP = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
# Entries of the results that have a value per task.
_BY_TASK = (
    "results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
    "task_hashes",
)  # fmt: skip
_NEEDED = ("doc_id", "doc_hash", "prompt_hash", "target_hash", "metrics")
_PICTURE = re.compile(r"^<PIL\.\S+ .*at 0x[0-9A-Fa-f]+>$")


@dataclass(frozen=True)
class Sample:
    """One evaluated document under one filter, without what a comparison does not need.

    Attributes:
        doc_id: Its number in the task.
        doc_hash: lm-eval's hash of the document.
        prompt_hash: Hash of the first request's context.
        target_hash: Hash of the target.
        doc: The document.
        target: What was right, as text.
        prompt: The first request's context.
        choices: Continuations that were scored, empty for generation.
        responses: The filtered responses.
        values: Every metric of the row, as logged.
    """

    doc_id: int
    doc_hash: str
    prompt_hash: str
    target_hash: str
    doc: Any
    target: str
    prompt: str
    choices: tuple[str, ...]
    responses: Any
    values: Mapping[str, Any]

    @property
    def has_picture(self) -> bool:
        """Whether the document held a picture, whose logged form is a memory address."""
        return holds_picture(self.doc)

    @property
    def content_hash(self) -> str:
        """The hash by which artifacts know this document: pictures are left out of it."""
        if not self.has_picture or not isinstance(self.doc, Mapping):
            return self.doc_hash
        document = cast(Mapping[str, Any], self.doc)
        rest = {key: value for key, value in document.items() if not holds_picture(value)}
        return hashlib.sha256(json.dumps(rest, indent=2, ensure_ascii=False).encode()).hexdigest()

    def query_hashes(self, field: Any) -> tuple[str, ...]:
        """The hash of a field as it stands, by which artifacts of before texts were normalised know a question.

        Args:
            field: `doc_to_decontamination_query` of the task's config; only a field's name is understood.
        """
        if not isinstance(field, str) or not isinstance(self.doc, Mapping) or field not in self.doc:
            return ()
        return (hashlib.sha256(str(cast(Mapping[str, Any], self.doc)[field]).encode()).hexdigest(),)


SamplesByFilter = dict[str, list[Sample]]


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
            self.cache[task] = self._read_samples(task)
        return self.cache[task]

    def _read_samples(self, task: str) -> SamplesByFilter:
        results = self.sources.get(task, self.file)
        stamp = _STAMP.search(results.name)
        file = results.with_name(f"samples_{task}_{stamp.group(1)}.jsonl") if stamp else None
        if file is None or not file.is_file():
            raise GrainsError(
                f"run '{self.name}' has no samples of task '{task}' beside {results.name}; "
                "run lm_eval again with --log_samples"
            )
        found: SamplesByFilter = {}
        for row in _rows(file):
            found.setdefault(str(row.get("filter", "none")), []).append(_sample(row, file))
        expected = self.setting("n-samples", task, "effective")
        for name, samples in found.items():
            samples.sort(key=lambda sample: sample.doc_id)
            if isinstance(expected, int) and expected != len(samples):
                raise GrainsError(
                    f"run '{self.name}', task '{task}', filter '{name}': {len(samples)} of {expected} "
                    f"samples are in {file.name}; the file is incomplete, run the task again"
                )
        if not found:
            raise GrainsError(f"'{file}' is empty; run the task again with --log_samples")
        return found


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise GrainsError(f"'{file}' line {number} is not JSON; the file is damaged, run again") from error
            if not isinstance(row, dict):
                raise GrainsError(f"'{file}' line {number} is no sample; the file is damaged, run again")
            yield cast(dict[str, Any], row)


def _sample(row: dict[str, Any], file: Path) -> Sample:
    missing = [key for key in _NEEDED if key not in row]
    if missing:
        raise GrainsError(f"a row of '{file}' lacks '{missing[0]}'; run again with lm_eval 0.4.9 or newer")
    requests = list((row.get("arguments") or {}).values()) if isinstance(row.get("arguments"), dict) else []
    # Scored choices have (context, continuation); a generation's second argument is its settings.
    second = [request.get("arg_1") for request in requests if isinstance(request, dict)]
    return Sample(
        doc_id=int(row["doc_id"]),
        doc_hash=str(row["doc_hash"]),
        prompt_hash=str(row["prompt_hash"]),
        target_hash=str(row["target_hash"]),
        doc=row.get("doc"),
        target=str(row.get("target", "")),
        prompt=str(requests[0].get("arg_0", "")) if requests else "",
        choices=tuple(text for text in second if isinstance(text, str)),
        responses=row.get("filtered_resps"),
        values={name: row[name] for name in row["metrics"] if name in row},
    )


def holds_picture(value: Any) -> bool:
    """Whether a logged value is, or contains, the text that a PIL image leaves in JSON."""
    if isinstance(value, str):
        return bool(_PICTURE.match(value))
    if isinstance(value, Mapping):
        return any(holds_picture(item) for item in cast(Mapping[str, Any], value).values())
    return isinstance(value, list) and any(holds_picture(item) for item in cast(list[Any], value))


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


def _read(file: Path) -> tuple[dict[str, Any], str]:
    try:
        content = file.read_bytes()
        results = json.loads(content)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise GrainsError(f"'{file}' is no results file: {error}") from error
    if not isinstance(results, dict) or not isinstance(results.get("results"), dict):
        raise GrainsError(f"'{file}' is no results file of lm_eval: it has no 'results'")
    return cast(dict[str, Any], results), hashlib.sha256(content).hexdigest()[:16]


def _with(run: Run, file: Path) -> Run:
    """The run and the tasks that only an older evaluation in its folder has."""

    def without(reason: str) -> Run:
        return replace(run, notes=(*run.notes, f"{file.name} is left out of '{file.parent.parent.name}': {reason}"))

    try:
        older, digest = _read(file)
    except GrainsError:
        return without("it is no results file")
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
    """The leaf tasks under a group, through nested groups; empty when it is no group."""
    children = (results.get("group_subtasks") or {}).get(group)
    if not isinstance(children, list):
        return ()
    leaves: list[str] = []
    for child in cast(list[Any], children):
        leaves.extend(leaf_tasks(results, str(child)) or (str(child),))
    return tuple(dict.fromkeys(leaves))


def _evaluations(folder: Path) -> list[Path]:
    """The results files of a folder, the newest first."""
    files = {file: match.group(1) for file in folder.rglob("*.json") if (match := _STAMP.search(file.name))}
    if not files:
        raise GrainsError(f"'{folder}' holds no results_*.json; give an --output_path of lm_eval")
    places = {file.parent for file in files}
    # results of Python runs lay in "None" before they had their model's name
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
    """Names for a table: the folder's, and the method that steered the run where the folder does not say it.

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
