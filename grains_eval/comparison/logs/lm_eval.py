"""Result folders of lm-evaluation-harness 0.4 and 0.5: `results_DATE.json` and `samples_TASK_DATE.jsonl` beside it."""

from __future__ import annotations

import glob
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from grains_eval.comparison.logs.files import digest, file_in, json_lines, json_object
from grains_eval.comparison.logs.shapes import BY_TASK, document_number, in_order, metric_names, shaped
from grains_eval.comparison.runs import Evaluation, Run, Sample, SamplesByFilter
from grains_eval.errors import GrainsError

TOOL: str = "lm_eval"
WRITES: str = "results_*.json of lm_eval"
_STAMP = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
_NEEDED = ("doc_id", "doc_hash", "prompt_hash", "target_hash", "metrics")


def files(place: Path) -> list[Path]:
    """The results files of a folder, the newest first; a file is taken as it is.

    Raises:
        GrainsError: they lie in several folders.
    """
    if place.is_file():
        return [place]
    found = {
        file: match.group(1) for file in place.rglob("*.json") if (match := _STAMP.search(file.name)) and file.is_file()
    }
    places = {file.parent for file in found}
    # older results of Python runs lie in "None" instead of a folder with the model's name
    old = {home for home in places if home.name == "None" and any(o.parent == home.parent for o in places - {home})}
    homes = sorted(places - old)
    if len(homes) > 1:
        names = ", ".join(str(home.relative_to(place)) for home in homes[:4])
        raise GrainsError(f"'{place}' holds several runs ({names}); give one of them")
    return sorted(found, key=lambda file: found[file], reverse=True)


def dated(place: Path) -> list[Path]:
    """What `--output_path x/mine.json` became, which lm_eval adds the date to."""
    return sorted(place.parent.glob(f"{place.stem}_*.json"))[-1:] if place.suffix == ".json" else []


def open_file(file: Path) -> Evaluation:
    """Read one results file.

    Raises:
        GrainsError: it is none.
    """
    results = json_object(file, "a results file")
    if not isinstance(results.get("results"), dict):
        raise GrainsError(f"'{file}' is not a results file of lm_eval: it has no 'results'")
    results = _bare_names(shaped(file, results))
    return Evaluation(TOOL, file, results, digest(file), partial(_read_samples, file, results))


def name(place: Path, run: Run) -> str:
    """The folder that was given, or the one around a file or around the model's folder."""
    folder = place.resolve() if place.is_dir() else run.file.resolve().parent
    return folder.parent.name if folder.name in ("None", run.setting("model_name_sanitized")) else folder.name


def _bare_names(results: dict[str, Any]) -> dict[str, Any]:
    """Results whose tasks go by their own names: lm_eval 0.5 writes `group::task` where a group was asked for.

    A name that several entries would have is left as it is.
    """
    often = Counter(name.rpartition("::")[2] for name in results["results"])
    bare = {name: own for name in results["results"] if often[own := name.rpartition("::")[2]] == 1}
    renamed = {
        key: {bare.get(name, name): value for name, value in results[key].items()}
        for key in BY_TASK
        if isinstance(results.get(key), dict)
    }
    for group, children in renamed.get("group_subtasks", {}).items():
        renamed["group_subtasks"][group] = [bare.get(str(child), child) for child in children]
    return {**results, **renamed}


def stamp_of(results_file: Path) -> str | None:
    """The date in the name of a results file."""
    match = _STAMP.search(results_file.name)
    return match.group(1) if match else None


def rows(run: Run, task: str) -> list[dict[str, Any]]:
    """The samples of a task as lm_eval logged them.

    Raises:
        GrainsError: another tool logged the run, there are no samples, or a line is damaged.
    """
    source = run.sources[task]
    if source.tool != TOOL:
        raise GrainsError(f"run '{run.name}' was logged by {source.tool}; this reads samples of lm_eval alone")
    return list(json_lines(_logged(source.file, task, run.name)))


def _logged(results_file: Path, task: str, run: str) -> Path:
    stamp = stamp_of(results_file)
    file = _samples_file(results_file.parent, task, stamp) if stamp else None
    if file is None:
        raise GrainsError(
            f"run '{run}' has no samples of task '{task}' beside {results_file.name}; "
            "run lm_eval again with --log_samples"
        )
    return file


def _read_samples(results_file: Path, results: dict[str, Any], task: str, run: str) -> SamplesByFilter:
    file = _logged(results_file, task, run)
    found: SamplesByFilter = {}
    for row in json_lines(file):
        found.setdefault(str(row.get("filter", "none")), []).append(_sample(row, file))
    expected = results.get("n-samples", {}).get(task, {}).get("effective")
    return in_order(found, expected, file, f"run '{run}', task '{task}'")


def _samples_file(folder: Path, task: str, stamp: str) -> Path | None:
    """The samples of a task, whose file lm_eval 0.5 names after the task's group too."""
    if file := file_in(folder, f"samples_{task}_{stamp}.jsonl"):
        return file
    return next(folder.glob(f"samples_*::{glob.escape(task)}_{stamp}.jsonl"), None)


def _sample(row: dict[str, Any], file: Path) -> Sample:
    missing = [key for key in _NEEDED if key not in row]
    if missing:
        raise GrainsError(f"a row of '{file}' lacks '{missing[0]}'; run again with lm_eval 0.4.9 or newer")
    asked = row.get("arguments")
    requests = [request for request in asked.values() if isinstance(request, dict)] if isinstance(asked, dict) else []
    # Scored choices have (context, continuation); a generation's second argument is its settings.
    second = [request.get("arg_1") for request in requests]
    return Sample(
        doc_id=document_number(row, file),
        doc_hash=str(row["doc_hash"]),
        prompt_hash=str(row["prompt_hash"]),
        target_hash=str(row["target_hash"]),
        doc=row.get("doc"),
        target=str(row.get("target", "")),
        prompt=str(requests[0].get("arg_0", "")) if requests else "",
        choices=tuple(text for text in second if isinstance(text, str)),
        responses=row.get("filtered_resps"),
        values={name: row[name] for name in metric_names(row, file) if name in row},
    )
