"""Run folders as lm-eval writes them, made from a few numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STAMP = "2026-01-02T03-04-05.678901"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def doc_hash(doc: Any) -> str:
    return sha(json.dumps(doc, indent=2, ensure_ascii=False))


@dataclass
class TaskData:
    """One task of a run: metric name to per-document values, plus what a test wants different."""

    values: Mapping[str, Sequence[Any]]
    reported: Mapping[str, float] = field(default_factory=dict)
    aggregation: Mapping[str, str] = field(default_factory=dict)
    higher: Mapping[str, bool] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=lambda: {"version": 1.0})
    docs: Sequence[Any] | None = None
    responses: Sequence[Any] | None = None
    choices: Sequence[str] = ()
    targets: Sequence[str] | None = None
    prompts: Sequence[str] | None = None
    filter: str = "none"
    shots: int = 0
    doc_hashes: Sequence[str] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def write_run(
    folder: Path,
    tasks: Mapping[str, TaskData],
    *,
    groups: Mapping[str, tuple[Sequence[str], Mapping[str, float]]] | None = None,
    steering: Sequence[Mapping[str, Any]] | None = None,
    stamp: str = STAMP,
    config: Mapping[str, Any] | None = None,
    **top: Any,
) -> Path:
    """Write `results_*.json` and one `samples_*.jsonl` a task under `folder/model`."""
    home = folder / "org__model"
    home.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "results": {},
        "group_subtasks": {name: list(children) for name, (children, _) in (groups or {}).items()},
        "configs": {},
        "versions": {},
        "n-shot": {},
        "higher_is_better": {},
        "n-samples": {},
        "config": {"model": "hf", "model_args": {"pretrained": "org/model"}, **(config or {})},
        "lm_eval_version": "0.4.13",
        "model_name": "org/model",
        "chat_template_sha": None,
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": None,
        **top,
    }
    if steering is not None:
        results["config"]["steering"] = list(steering)
    for name, task in tasks.items():
        count = len(next(iter(task.values.values())))
        results["results"][name] = {"alias": name, "sample_len": count}
        for metric, values in task.values.items():
            value = task.reported[metric] if metric in task.reported else sum(values) / count
            results["results"][name][f"{metric},{task.filter}"] = value
            results["results"][name][f"{metric}_stderr,{task.filter}"] = 0.01
        results["configs"][name] = {
            "task": name,
            "metadata": dict(task.metadata),
            **task.config,
            "metric_list": [
                {"metric": metric, "aggregation": task.aggregation.get(metric, "mean")} for metric in task.values
            ],
            **task.config,
        }
        results["versions"][name] = task.metadata.get("version", 1.0)
        results["n-shot"][name] = task.shots
        results["higher_is_better"][name] = {metric: task.higher.get(metric, True) for metric in task.values}
        results["n-samples"][name] = {"original": count, "effective": count}
        with (home / f"samples_{name}_{stamp}.jsonl").open("w") as file:
            for index in range(count):
                file.write(json.dumps(_row(task, index)) + "\n")
    if groups:
        results["groups"] = {}
        for name, (_, values) in groups.items():
            results["groups"][name] = {"alias": name, **values}
            results["results"][name] = {"alias": name, **values}
    (home / f"results_{stamp}.json").write_text(json.dumps(results))
    return folder


def _row(task: TaskData, index: int) -> dict[str, Any]:
    doc = task.docs[index] if task.docs else {"question": f"question {index}", "id": index}
    prompt = task.prompts[index] if task.prompts else f"Q: question {index}\nA:"
    target = task.targets[index] if task.targets else "0"
    return {
        "doc_id": index,
        "doc": doc,
        "target": target,
        "arguments": {
            f"gen_args_{number}": {"arg_0": prompt, "arg_1": choice}
            for number, choice in enumerate(task.choices or (" yes",))
        },
        "resps": [],
        "filtered_resps": task.responses[index] if task.responses else ["answer"],
        "filter": task.filter,
        "metrics": list(task.values),
        "doc_hash": task.doc_hashes[index] if task.doc_hashes else doc_hash(doc),
        "prompt_hash": sha(prompt),
        "target_hash": sha(target),
        **{metric: values[index] for metric, values in task.values.items()},
    }
