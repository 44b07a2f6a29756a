"""Result folders of lmms-eval: `DATE_results.json` and `DATE_samples_TASK.jsonl` beside it.

Its rows hold neither the document nor a hash that tells documents apart (version 0.7 hashes a document that it has
dropped), so that items are known by number, input and target. A metric may be a record, whose `score_key` is the score.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from grains_eval.comparison.logs import lm_eval
from grains_eval.comparison.logs.files import digest, file_in, json_lines, json_object, text_hash
from grains_eval.comparison.logs.shapes import document_number, in_order, shaped
from grains_eval.comparison.runs import Evaluation, Sample, SamplesByFilter
from grains_eval.errors import GrainsError

TOOL: str = "lmms_eval"
WRITES: str = "*_results.json of lmms-eval"
_RESULTS = re.compile(r"^(\d{8}_\d{6})_results\.json$")
# Entries that say where and how fast it ran, or repeat others.
_HARMLESS = ("usage", "efficiency", "throughput", "git_branch")
_HARMLESS_CONFIG = ("resolved_cli_args", "model_backend", "batch_sizes", "process_docs_parallel")


def files(place: Path) -> list[Path]:
    """The results files of a folder, the newest first.

    Raises:
        GrainsError: they lie in several folders.
    """
    found = [place] if place.is_file() else list(place.rglob("*_results.json"))
    logged = (file for file in found if _RESULTS.match(file.name) and file.is_file())
    named = sorted(logged, key=lambda file: file.name, reverse=True)
    homes = sorted({file.parent for file in named})
    if len(homes) > 1:
        names = ", ".join(str(home.relative_to(place)) for home in homes[:4])
        raise GrainsError(f"'{place}' holds several runs ({names}); give one of them")
    return named


def open_file(file: Path) -> Evaluation:
    """Read one results file.

    Raises:
        GrainsError: it is none.
    """
    logged = json_object(file, "a results file of lmms-eval")
    if not isinstance(logged.get("results"), dict) or not isinstance(logged.get("configs"), dict):
        raise GrainsError(f"'{file}' is not a results file of lmms-eval: it has no 'results' or no 'configs'")
    logged = shaped(file, logged)
    config = {key: value for key, value in logged.get("config", {}).items() if key not in _HARMLESS_CONFIG}
    results = {key: value for key, value in logged.items() if key not in _HARMLESS} | {"config": config}
    results["configs"] = {task: _config(entry) for task, entry in results["configs"].items()}
    results["group_subtasks"] = {group: tasks for group, tasks in logged.get("group_subtasks", {}).items() if tasks}
    return Evaluation(TOOL, file, results, digest(file), partial(_read_samples, file, results))


name = lm_eval.name


def _config(entry: Any) -> dict[str, Any]:
    """A task's configuration; the field of a record that names the cluster stands where lm-eval's tasks have it."""
    found = dict(cast(Mapping[str, Any], entry)) if isinstance(entry, Mapping) else {}
    if isinstance(found.get("cluster_key"), str):
        found["metadata"] = {"cluster_key": found["cluster_key"]}
    return found


def _read_samples(results_file: Path, results: Mapping[str, Any], task: str, run: str) -> SamplesByFilter:
    stamp = cast(re.Match[str], _RESULTS.match(results_file.name)).group(1)
    file = file_in(results_file.parent, f"{stamp}_samples_{task}.jsonl")
    if file is None:
        raise GrainsError(
            f"run '{run}' has no samples of task '{task}' beside {results_file.name}; "
            "run lmms_eval again with --log_samples"
        )
    config = results["configs"][task]
    metrics = [str(entry.get("metric")) for entry in config.get("metric_list") or ()]
    filters = _filters(results, task)
    seen: dict[int, int] = {}
    found: SamplesByFilter = {}
    for row in json_lines(file):
        if "doc_id" not in row or "target" not in row:
            raise GrainsError(f"a row of '{file}' lacks its document's number or target; run again with lmms-eval 0.5")
        number = document_number(row, file)
        place = seen[number] = seen.get(number, -1) + 1
        if place >= len(filters):
            raise GrainsError(f"'{file}' holds document {number} more than once; the file is damaged, run again")
        found.setdefault(filters[place], []).append(_sample(row, metrics, str(config.get("score_key") or "score")))
    expected = results.get("n-samples", {}).get(task, {}).get("effective")
    return in_order(found, expected, file, f"run '{run}', task '{task}'")


def _filters(results: Mapping[str, Any], task: str) -> list[str]:
    """The filters of a task in the order of its rows: a document's rows stand in it one after another."""
    keys = [key for key in results["results"].get(task, {}) if "," in key and "_stderr" not in key]
    return list(dict.fromkeys(key.rpartition(",")[2] for key in keys)) or ["none"]


def _sample(row: Mapping[str, Any], metrics: Sequence[str], score_key: str) -> Sample:
    values: dict[str, Any] = {}
    document: dict[str, Any] = {"input": row.get("input"), "target": row["target"]}
    if isinstance(row.get("doc"), Mapping):  # versions before 0.5 kept it
        document |= cast(Mapping[str, Any], row["doc"])
    for metric in metrics:
        value = row.get(metric)
        if isinstance(value, Mapping):
            record = cast(Mapping[str, Any], value)
            document = {**record, **document}
            value = record.get(score_key)
        if metric in row:
            values[metric] = value
    asked = str(row.get("input", ""))
    target = str(row["target"])
    responses = row.get("filtered_resps")
    return Sample(
        doc_id=row["doc_id"],
        doc_hash=text_hash([row["doc_id"], asked, target]),
        prompt_hash=text_hash(asked),
        target_hash=text_hash(target),
        doc=document,
        target=target,
        prompt=asked,
        choices=(),
        responses=responses if isinstance(responses, list) else [responses],
        values=values,
    )
