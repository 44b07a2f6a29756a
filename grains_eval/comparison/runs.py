"""A run as comparisons see it, whichever tool logged it: what was run, and the samples. `logs` reads them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, cast

from grains_eval.questions import Recognised, hidden_hashes

_IMAGE = re.compile(r"^<PIL\.\S+ .*at 0x[0-9A-Fa-f]+>$")
_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_MOST_DIGESTS = 6  # fields of a document of which each may be an image or not


@dataclass(frozen=True)
class Sample:
    """One evaluated document under one filter, cut to what a comparison needs.

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
    def has_image(self) -> bool:
        """Whether the document held an image, so that its hash is that of a memory address."""
        return bool(self._image_pattern)

    @property
    def _image_pattern(self) -> re.Pattern[str] | None:
        """What images left in the logged document: their address or, as lm_eval logs by default, their SHA-256."""
        if _holds(self.doc, _IMAGE):
            return _IMAGE
        # a field that was text all along is part of the document's own hash
        return _DIGEST if _holds(self.doc, _DIGEST) and _hash(self.doc) != self.doc_hash else None

    @property
    def content_hashes(self) -> tuple[str, ...]:
        """The hash by which artifacts know this document: images are left out of it.

        Several where a digest may be an image's or text of the document's own, such as an id.
        """
        pattern = self._image_pattern
        if pattern is None or not isinstance(self.doc, Mapping):
            return (self.doc_hash,)
        document = cast(Mapping[str, Any], self.doc)
        held = [key for key, value in document.items() if _holds(value, pattern)]
        fewest = 1 if pattern is _DIGEST and len(held) <= _MOST_DIGESTS else len(held)
        left_out = (each for count in range(fewest, len(held) + 1) for each in combinations(held, count))
        return tuple(_hash({key: document[key] for key in document if key not in each}) for each in left_out)

    def query_hashes(self, field: Any) -> tuple[str, ...]:
        """The hash of a field as it stands, by which artifacts made before texts were normalised know a question.

        Args:
            field: `doc_to_decontamination_query` of the task's config; only a field's name is understood.
        """
        if not isinstance(field, str) or not isinstance(self.doc, Mapping) or field not in self.doc:
            return ()
        return (
            hashlib.sha256(str(cast(Mapping[str, Any], self.doc)[field]).encode("utf-8", "surrogatepass")).hexdigest(),
        )


SamplesByFilter = dict[str, list[Sample]]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation as a tool logged it.

    Attributes:
        tool: The tool, by its package's name.
        file: What was read.
        results: Its content, in the form of lm-eval's results.
        digest: First 16 hex digits of the file's SHA-256.
        read: The samples of a task, given the task and the run's name; raises `GrainsError`.
        notes: What a careful reader should know of it.
    """

    tool: str
    file: Path
    results: Mapping[str, Any]
    digest: str
    read: Callable[[str, str], SamplesByFilter]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One evaluation.

    Attributes:
        name: How the report calls it.
        tool: What logged it: `lm_eval`, `inspect_ai` or `lmms_eval`.
        file: The results file; of several evaluations, the newest.
        results: Its content; of several evaluations, with the tasks of the older ones.
        digest: First 16 hex digits of the SHA-256 of the results file, or of those of several.
        sources: The evaluation that each task is read from.
        notes: Evaluations in the folder that were left out, and why.
        cache: Samples read so far, by task.
        recognised: Held-out documents found so far, by task and what was looked for.
    """

    name: str
    tool: str
    file: Path
    results: Mapping[str, Any]
    digest: str
    sources: Mapping[str, Evaluation]
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
        return tuple(dict.fromkeys([self.file, *(source.file for source in self.sources.values())]))

    @property
    def steering(self) -> tuple[Mapping[str, Any], ...]:
        """What steered the run; empty for a plain model."""
        found = self.setting("config", "steering")
        entries = [found] if isinstance(found, Mapping) else found if isinstance(found, list) else []
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
        return tuple(name for section in sections if isinstance(section, Mapping) for name in _list(section.get(role)))

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
            self.cache[task] = self.sources[task].read(task, self.name)
        return self.cache[task]


def _holds(value: Any, pattern: re.Pattern[str]) -> bool:
    """Whether a logged value is, or contains, such a text."""
    if isinstance(value, str):
        return bool(pattern.match(value))
    if isinstance(value, Mapping):
        return any(_holds(item, pattern) for item in cast(Mapping[str, Any], value).values())
    return isinstance(value, list) and any(_holds(item, pattern) for item in cast(list[Any], value))


def _hash(document: Any) -> str:
    """lm-eval's hash of a document."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def leaf_tasks(results: Mapping[str, Any], group: str, above: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The leaf tasks under a group, through nested groups; empty when it is not a group.

    Args:
        results: A results file's content.
        group: The group.
        above: Groups that it lies in, into which none leads back.
    """
    children = results.get("group_subtasks", {}).get(group)
    if not isinstance(children, list) or group in above:
        return ()
    leaves: list[str] = []
    for child in cast(list[Any], children):
        leaves.extend(leaf_tasks(results, str(child), above | {group}) or (str(child),))
    return tuple(dict.fromkeys(leaves))


def _list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []


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
