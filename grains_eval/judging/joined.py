"""Judged scores as lm-eval writes scores: results and samples beside those of the run.

The results repeat what the run's own say of model, steering and surroundings, so that `read_run` takes them as another
evaluation of the same model. Nothing in them depends on when or in how many pieces the judge was asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grains_eval.comparison.logs.judged import CONFIG_KEY, samples_digest
from grains_eval.comparison.logs.lm_eval import stamp_of
from grains_eval.comparison.logs.shapes import BY_TASK
from grains_eval.comparison.runs import Run
from grains_eval.errors import GrainsError
from grains_eval.files import write_together


@dataclass(frozen=True)
class JudgedTask:
    """Scores of a task, one set a row.

    Attributes:
        name: What the judged task is called.
        task: The task whose generations were judged.
        rows: Its logged rows.
        values: Of each row, the metrics by name; None where there is no verdict.
        details: Of each row, what else is kept of the judgement, as JSON values.
        directions: Whether higher is better, by metric.
        judge: Who judged by what.
        served: Names that the endpoint gave the judge.
    """

    name: str
    task: str
    rows: Sequence[Mapping[str, Any]]
    values: Sequence[Mapping[str, float | None]]
    details: Sequence[Mapping[str, Any]]
    directions: Mapping[str, bool]
    judge: Mapping[str, Any]
    served: Sequence[str]


def mean(values: Sequence[float | None]) -> float:
    """Mean over the items that have a value; NaN where none has."""
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else float("nan")


def refuse_path(name: str, what: str) -> str:
    """The name, which is part of a file's or folder's name.

    Raises:
        GrainsError: it would lead to another folder; results files are not always one's own.
    """
    if name in {"", ".", ".."} or any(sign in name for sign in "/\\\0"):
        raise GrainsError(f"{what} {name!r} cannot name a file; give a name without '/' and '\\' that is not '..'")
    return name


def check_name(run: Run, name: str, folder: Path) -> None:
    """Refuse a name under which scores cannot be written, before a judge is asked.

    Args:
        run: The run whose generations are judged.
        name: What the judged task is to be called.
        folder: Where its results go.

    Raises:
        GrainsError: the name leads elsewhere, or a task or group that no judge scored has it.
    """
    refuse_path(name, "a judged task called")
    in_run = name in run.results["results"] and not run.setting("configs", name, "judge")
    if in_run or any(not is_judged for _, is_judged in _same_name(folder, name)):
        raise GrainsError(
            f"'{name}' is a task of '{run.name if in_run else folder}' that no judge scored; give --as another name"
        )


def write_judged(run: Run, judged: JudgedTask, folder: Path, *, overwrite: bool) -> Path:
    """Write results and samples of a judged task.

    Args:
        run: The run whose generations were judged.
        judged: The scores.
        folder: Where to: the folder of the run's own results, or a new one.
        overwrite: Replace scores of that name by another judge, or of other generations.

    Returns:
        The results file.

    Raises:
        GrainsError: scores of that name are there and may not be replaced, or the name is not to be had.
    """
    check_name(run, judged.name, folder)
    stamp = _stamp(run, judged)
    results = json.dumps(_results(run, judged), indent=2, ensure_ascii=False) + "\n"
    samples = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(judged))
    contents = {f"samples_{judged.name}_{stamp}.jsonl": samples, f"results_{stamp}.json": results}
    earlier = [
        each
        for file, _ in _same_name(folder, judged.name)
        for each in (file, folder / f"samples_{judged.name}_{stamp_of(file)}.jsonl")
    ]
    others = [file for file in earlier if file.name not in contents and file.is_file()]
    changed = [name for name, content in contents.items() if _differs(folder / name, content)]
    if (others or changed) and not overwrite:
        there = others[0].name if others else changed[0]
        raise GrainsError(
            f"'{folder}' has other scores of '{judged.name}' ({there}); give --as another name or pass --overwrite"
        )
    write_together(folder, contents)
    for file in others:
        file.unlink()
    return folder / f"results_{stamp}.json"


def _differs(file: Path, content: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") != content


def _same_name(folder: Path, name: str) -> list[tuple[Path, bool]]:
    """Results files that hold a task of that name, and whether it is all that they hold and a judge scored it."""
    found: list[tuple[Path, bool]] = []
    for file in sorted(folder.glob("results_*.json")) if folder.is_dir() else []:
        try:
            content: Any = json.loads(file.read_text(encoding="utf-8"))
            tasks, config = set(content["results"]), content.get("configs", {}).get(name) or {}
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            continue
        if name in tasks:
            found.append((file, tasks == {name} and "judge" in config))
    return found


def _stamp(run: Run, judged: JudgedTask) -> str:
    """A date that follows the run's own at once, and that each judge has for itself."""
    own = stamp_of(run.sources[judged.task].file) or "2000-01-01T00-00-00"
    text = json.dumps([judged.name, judged.task, judged.judge], sort_keys=True)
    digits = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10**9
    return f"{own}{'' if '.' in own else '.'}{digits:09d}"


def _results(run: Run, judged: JudgedTask) -> dict[str, Any]:
    name, task = judged.name, judged.task
    config: Mapping[str, Any] = run.setting("configs", task) or {}
    entries: dict[str, Any] = {"alias": name, "sample_len": len(judged.rows)}
    for metric in judged.directions:
        value = mean([row[metric] for row in judged.values])
        entries[f"{metric},none"] = value if value == value else "N/A"
        entries[f"{metric}_stderr,none"] = "N/A"
    metrics = [
        {"metric": metric, "aggregation": "mean", "higher_is_better": higher}
        for metric, higher in judged.directions.items()
    ]
    count = len(judged.rows)
    return {
        **{key: value for key, value in run.results.items() if key not in BY_TASK},
        "results": {name: entries},
        "group_subtasks": {name: []},
        "configs": {
            name: {
                **config,
                "task": name,
                "metric_list": metrics,
                "judge": dict(judged.judge),
                "judge_served": list(judged.served),
                CONFIG_KEY: {"task": task, "digest": samples_digest(run, task)},
            }
        },
        "versions": {name: run.setting("versions", task)},
        "n-shot": {name: run.setting("n-shot", task)},
        "higher_is_better": {name: dict(judged.directions)},
        "n-samples": {name: {"original": count, "effective": count}},
    }


def _rows(judged: JudgedTask) -> list[dict[str, Any]]:
    old = {str(metric) for row in judged.rows for metric in row.get("metrics", ())}
    return [
        {
            **{key: value for key, value in row.items() if key not in old},
            "filter": "none",
            "metrics": list(judged.directions),
            **values,
            "judge": dict(detail),
        }
        for row, values, detail in zip(judged.rows, judged.values, judged.details, strict=True)
    ]
