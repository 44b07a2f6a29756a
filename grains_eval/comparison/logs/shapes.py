"""The shape of results and samples: refused in one line before anything looks into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from grains_eval.comparison.runs import SamplesByFilter
from grains_eval.errors import GrainsError, told

# Entries of results that have a value per task or group, and what that is where something looks into it.
BY_TASK: Mapping[str, type] = {
    "results": dict, "groups": dict, "group_subtasks": list, "configs": dict, "versions": object, "n-shot": object,
    "higher_is_better": dict, "n-samples": dict, "task_hashes": object,
}  # fmt: skip
_IN_JSON = {dict: "an object", list: "a list", str: "a text"}


def shaped(file: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Results of lm-eval's form, without those of their entries that are null.

    Args:
        file: Where they come from.
        results: The content.

    Raises:
        GrainsError: an entry is not what readers take it for.
    """
    found = {key: value for key, value in results.items() if value is not None}
    _check(file, "config", found.get("config", {}), dict)
    for key, kind in BY_TASK.items():
        if key in found:
            _check(file, key, found[key], dict)
            table = cast(dict[str, Any], found[key])
            found[key] = {name: value for name, value in table.items() if value is not None or kind is object}
            for name, value in found[key].items():
                _check(file, f"{key}: {name}", value, kind)
    for task, config in found.get("configs", {}).items():
        metrics = config.get("metric_list") or []
        _check(file, f"metric_list of task {task}", metrics, list)
        for metric in metrics:
            _check(file, f"metric_list of task {task}", metric, dict)
    _check_steering(file, found.get("config", {}).get("steering"))
    return found


def document_number(row: Mapping[str, Any], file: Path) -> int:
    """The number of a sample's document.

    Raises:
        GrainsError: it is none.
    """
    number = row.get("doc_id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise GrainsError(f"a row of '{file}' has no whole number as doc_id; the file is damaged, run again")
    return number


def metric_names(row: Mapping[str, Any], file: Path) -> Sequence[str]:
    """The metrics that a sample lists.

    Raises:
        GrainsError: they are no names.
    """
    names = row.get("metrics")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast(list[Any], names)):
        raise GrainsError(f"a row of '{file}' has no list of names as metrics; the file is damaged, run again")
    return cast(list[str], names)


def _check_steering(file: Path, steering: Any) -> None:
    """What a run was built from and declares decides which documents are held out, so that it is not passed over."""
    entries = cast(list[Any], steering) if isinstance(steering, list) else [steering]
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        for key in ("doc_hashes", "evaluation"):
            section = cast(dict[str, Any], entry).get(key) or {}
            _check(file, f"{key} of what steered", section, dict)
            for name, values in section.items():
                _check(file, f"{key}: {name}", values, list)
                for value in values:
                    _check(file, f"{key}: {name}", value, str)


def _check(file: Path, what: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise GrainsError(
            f"'{file}' is damaged: '{told(what, 200)}' is not {_IN_JSON[kind]}; copy it or run the evaluation again"
        )


def in_order(found: SamplesByFilter, expected: Any, file: Path, where: str) -> SamplesByFilter:
    """Samples sorted by their document's number.

    Args:
        found: The samples of a file by filter.
        expected: How many the results count, if they say so.
        file: The file.
        where: Run and task, for errors.

    Raises:
        GrainsError: there are none, or not as many as there should be.
    """
    for key, samples in found.items():
        samples.sort(key=lambda sample: sample.doc_id)
        if isinstance(expected, int) and expected != len(samples):
            raise GrainsError(
                f"{where}, filter '{key}': {len(samples)} of {expected} samples are in {file.name}; the file is "
                "incomplete, run the task again"
            )
    if not found:
        raise GrainsError(f"'{file}' is empty; run the task again with --log_samples")
    return found
