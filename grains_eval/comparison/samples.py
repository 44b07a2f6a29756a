"""The logged samples of a run, cut to what a comparison needs. Nothing of the harness is imported."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from grains_eval.errors import GrainsError

STAMP = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
"""The date in the name of a results file."""

_NEEDED = ("doc_id", "doc_hash", "prompt_hash", "target_hash", "metrics")
_IMAGE = re.compile(r"^<PIL\.\S+ .*at 0x[0-9A-Fa-f]+>$")


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
        """Whether the document held an image, whose logged form is a memory address."""
        return holds_image(self.doc)

    @property
    def content_hash(self) -> str:
        """The hash by which artifacts know this document: images are left out of it."""
        if not self.has_image or not isinstance(self.doc, Mapping):
            return self.doc_hash
        document = cast(Mapping[str, Any], self.doc)
        rest = {key: value for key, value in document.items() if not holds_image(value)}
        return hashlib.sha256(json.dumps(rest, indent=2, ensure_ascii=False).encode()).hexdigest()

    def query_hashes(self, field: Any) -> tuple[str, ...]:
        """The hash of a field as it stands, by which artifacts made before texts were normalised know a question.

        Args:
            field: `doc_to_decontamination_query` of the task's config; only a field's name is understood.
        """
        if not isinstance(field, str) or not isinstance(self.doc, Mapping) or field not in self.doc:
            return ()
        return (hashlib.sha256(str(cast(Mapping[str, Any], self.doc)[field]).encode()).hexdigest(),)


SamplesByFilter = dict[str, list[Sample]]


def read_samples(results: Path, run: str, task: str, expected: Any) -> SamplesByFilter:
    """A task's samples by filter, ordered by document.

    Args:
        results: The results file that they belong to.
        run: Names the run in errors.
        task: The task.
        expected: Their number as the results say, if they do.

    Raises:
        GrainsError: no samples were logged, or not all of them are there.
    """
    file = _logged(results, run, task)
    found: SamplesByFilter = {}
    for row in _rows(file):
        found.setdefault(str(row.get("filter", "none")), []).append(_sample(row, file))
    for name, samples in found.items():
        samples.sort(key=lambda sample: sample.doc_id)
        if isinstance(expected, int) and expected != len(samples):
            raise GrainsError(
                f"run '{run}', task '{task}', filter '{name}': {len(samples)} of {expected} "
                f"samples are in {file.name}; the file is incomplete, run the task again"
            )
    if not found:
        raise GrainsError(f"'{file}' is empty; run the task again with --log_samples")
    return found


def read_rows(results: Path, run: str, task: str) -> list[dict[str, Any]]:
    """A task's samples as they were logged.

    Args:
        results: The results file that they belong to.
        run: Names the run in errors.
        task: The task.

    Raises:
        GrainsError: no samples were logged, or a line is damaged.
    """
    return list(_rows(_logged(results, run, task)))


def stamp_of(results: Path) -> str | None:
    """The date in the name of a results file."""
    match = STAMP.search(results.name)
    return match.group(1) if match else None


def _logged(results: Path, run: str, task: str) -> Path:
    stamp = stamp_of(results)
    file = _samples_file(results.parent, task, stamp) if stamp else None
    if file is None:
        raise GrainsError(
            f"run '{run}' has no samples of task '{task}' beside {results.name}; run lm_eval again with --log_samples"
        )
    return file


def _samples_file(folder: Path, task: str, stamp: str) -> Path | None:
    """The samples of a task, whose file lm_eval 0.5 names after the task's group too."""
    file = folder / f"samples_{task}_{stamp}.jsonl"
    if file.is_file():
        return file
    return next(folder.glob(f"samples_*::{glob.escape(task)}_{stamp}.jsonl"), None)


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
                raise GrainsError(f"'{file}' line {number} is not a sample; the file is damaged, run again")
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


def holds_image(value: Any) -> bool:
    """Whether a logged value is, or contains, the text that a PIL image leaves in JSON."""
    if isinstance(value, str):
        return bool(_IMAGE.match(value))
    if isinstance(value, Mapping):
        return any(holds_image(item) for item in cast(Mapping[str, Any], value).values())
    return isinstance(value, list) and any(holds_image(item) for item in cast(list[Any], value))
