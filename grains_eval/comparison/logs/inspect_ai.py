"""Logs of Inspect (https://inspect.aisi.org.uk), `.eval` or `.json`: an item is a sample, reduced over its epochs.

An `.eval` file is a ZIP file of JSON: `header.json`, a file for each sample and epoch, and `reductions.json` with what
Inspect's own reducers made of the epochs (log schema versions 1 and 2).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from grains_eval.comparison.logs.files import digest, json_object, text_hash, zipped_json
from grains_eval.comparison.logs.shapes import shaped
from grains_eval.comparison.runs import Evaluation, Run, Sample, SamplesByFilter
from grains_eval.errors import GrainsError

TOOL: str = "inspect_ai"
WRITES: str = "log of Inspect (.eval or .json)"
_BEGINNING = re.compile(rb'^\s*\{\s*"version"\s*:\s*\d+\s*,\s*"status"\s*:')
_HEADER, _REDUCTIONS = "header.json", "reductions.json"
# Metrics of Inspect that are means of the samples' scores.
_MEANS = ("accuracy", "mean")
_WORDS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
# Settings of generation that change no answer.
_HARMLESS = frozenset({
    "max_retries", "timeout", "attempt_timeout", "max_connections", "adaptive_connections", "batch", "cache",
})  # fmt: skip
_FOLDERS = frozenset({"logs", ""})  # names that say nothing of a run
_ATTACHMENT = "attachment://"

Log = Mapping[str, Any]


@dataclass(frozen=True)
class _Metric:
    """A mean over samples that a log reports.

    Attributes:
        label: The score and its metric (`match_accuracy`), after the scorer where several have a score of that name.
        filter: The reducer of its epochs; `none` for the mean.
        scorer: The scorer, by which samples hold it.
        score: The score's name, by which a scorer with several holds it.
        value: What the log reports.
    """

    label: str
    filter: str
    scorer: str
    score: str
    value: float


def files(place: Path) -> list[Path]:
    """The logs in a folder, the newest first, by the date in their names; a file alone where it is one."""
    if place.is_file():
        return [place] if _is_log(place) else []
    found = [file for form in ("*.eval", "*.json") for file in place.rglob(form) if _is_log(file)]
    return sorted(found, key=lambda file: file.name, reverse=True)


def open_file(file: Path) -> Evaluation:
    """Read a log.

    Raises:
        GrainsError: it is damaged, unfinished, or was made without its samples.
    """
    header = _header(file)
    status = header.get("status")
    if status != "success":
        raise GrainsError(
            f"'{file}' is unfinished (status '{status}'); run `inspect eval-retry` on it and give the log that it makes"
        )
    spec = _mapping(header.get("eval"))
    metrics, notes = _metrics(header)
    task = _task_name(spec)
    model = str(spec.get("model", ""))
    given = _mapping(spec.get("config")).get("epochs")
    epochs = given if isinstance(given, int) and given > 0 else 1
    total = _mapping(header.get("results")).get("total_samples")
    samples = int(total) // epochs if isinstance(total, int) else None
    results: dict[str, Any] = {
        "results": {task: {"alias": task, **{f"{m.label},{m.filter}": m.value for m in metrics}}},
        "configs": {task: _config(header, task, metrics, epochs)},
        "versions": {task: spec.get("task_version")},
        "n-shot": {task: None},
        "higher_is_better": {task: {m.label: True for m in metrics if m.label.endswith("_accuracy")}},
        "n-samples": {task: {"original": _mapping(spec.get("dataset")).get("samples"), "effective": samples}},
        "config": {"model": TOOL, "model_args": {"pretrained": model, **_mapping(spec.get("model_args"))}},
        "model_name": model,
        "date": spec.get("created"),
        "inspect_ai_version": _mapping(spec.get("packages")).get("inspect_ai"),
    }
    ids = _mapping(spec.get("dataset")).get("sample_ids")
    order = {str(key): place for place, key in enumerate(ids if isinstance(ids, list) else ())}
    read = partial(_read_samples, file, metrics, samples, order)
    return Evaluation(TOOL, file, shaped(file, results), digest(file), read, tuple(notes))


def name(place: Path, run: Run) -> str:
    """The folder's name where it says something, else the model's."""
    folder = place.resolve().name
    return str(run.setting("model_name")).rpartition("/")[2] if place.is_file() or folder in _FOLDERS else folder


def _is_log(file: Path) -> bool:
    if file.suffix not in (".eval", ".json") or not file.is_file():
        return False
    if file.suffix == ".eval":
        return True
    with file.open("rb") as content:
        return bool(_BEGINNING.match(content.read(200)))


def _header(file: Path) -> Log:
    if file.suffix != ".eval":
        return json_object(file, "a log of Inspect")
    for _, header in zipped_json(file, lambda member: member == _HEADER):
        return _mapping(header)
    raise GrainsError(f"'{file}' is unfinished: it has no {_HEADER}; run `inspect eval-retry` on it")


def _task_name(spec: Log) -> str:
    """The task; arguments that it was given make another task of it."""
    given = _mapping(spec.get("task_args_passed"))
    arguments = ";".join(f"{key}={value}" for key, value in sorted(given.items()))
    return f"{spec.get('task')}{f'[{arguments}]' if arguments else ''}"


def _config(header: Log, task: str, metrics: Sequence[_Metric], epochs: int) -> dict[str, Any]:
    """What asked and scored, in the form of lm-eval's task configurations; scorers have to agree between runs."""
    spec, plan = _mapping(header.get("eval")), _mapping(header.get("plan"))
    scorers = {str(scorer.get("name")): scorer.get("options") for scorer in _mappings(spec.get("scorers"))}
    settings = {**_mapping(plan.get("config")), **_mapping(spec.get("model_generate_config"))}
    clusters = sorted(set(_clusters([spec.get("scorers"), spec.get("metrics")])))
    return {
        "task": task,
        "metric_list": [
            {
                "metric": metric.label,
                "aggregation": "mean",
                "options": scorers.get(metric.scorer),
                **({"bounds": [0, 1]} if metric.label.endswith("_accuracy") else {}),
            }
            for metric in metrics
        ],
        "solver": [[step.get("solver"), step.get("params")] for step in _mappings(plan.get("steps"))],
        "generate_config": {key: value for key, value in settings.items() if key not in _HARMLESS},
        "epochs": epochs,
        "metadata": {"cluster_key": f"metadata.{clusters[0]}"} if len(clusters) == 1 else {},
    }


def _clusters(value: Any) -> Iterator[str]:
    """The `cluster` options of metrics, wherever they stand."""
    if isinstance(value, Mapping):
        entry = cast(Log, value)
        cluster = _mapping(entry.get("options")).get("cluster")
        if isinstance(cluster, str):
            yield cluster
        for item in entry.values():
            yield from _clusters(item)
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            yield from _clusters(item)


def _metrics(header: Log) -> tuple[list[_Metric], list[str]]:
    """The means that a log reports, and notes on scores that it reports none of."""
    found: list[_Metric] = []
    notes: list[str] = []
    scores = _mappings(_mapping(header.get("results")).get("scores"))
    often = Counter(name for name, _ in {(str(score.get("name")), str(score.get("scorer"))) for score in scores})
    for score in scores:
        reported = _mapping(score.get("metrics"))
        kind = next((kind for kind in _MEANS if kind in reported), None)
        label, scorer = str(score.get("name")), str(score.get("scorer"))
        if kind is None:
            task = _mapping(header.get("eval")).get("task")
            listed = ", ".join(map(str, reported)) or "nothing"
            notes.append(f"{task}: score '{label}' is left out: of its metrics ({listed}) none is a mean over samples")
            continue
        reducer = score.get("reducer")
        value = _number(_mapping(reported[kind]).get("value"), label)
        found.append(
            _Metric(
                f"{scorer}.{label}_{kind}" if often[label] > 1 else f"{label}_{kind}",
                "none" if reducer in (None, "mean") else str(reducer),
                scorer,
                label,
                value,
            )
        )
    return found, notes


def _read_samples(
    file: Path, metrics: Sequence[_Metric], expected: int | None, order: Mapping[str, int], task: str, run: str
) -> SamplesByFilter:
    kept: dict[str, list[Log]] = {}
    for sample in _samples(file):
        kept.setdefault(str(sample.get("id")), []).append(_slim(sample))
    if not kept or (expected is not None and expected != len(kept)):
        there = f"{len(kept)} of {expected} samples are" if kept else "no samples are"
        raise GrainsError(f"run '{run}', task '{task}': {there} in '{file}'; run it again with log_samples on")
    reductions = _reductions(file)
    found: SamplesByFilter = {}
    ordered = sorted(kept.items(), key=lambda item: order.get(item[0], len(order)))
    for index, (sample_id, epochs) in enumerate(ordered):
        for reducer in dict.fromkeys(metric.filter for metric in metrics):
            values = {
                metric.label: _reduced(metric, sample_id, epochs, reductions)
                for metric in metrics
                if metric.filter == reducer
            }
            found.setdefault(reducer, []).append(_sample(index, epochs, values))
    return found


def _samples(file: Path) -> Iterator[Log]:
    """A log's samples, each of its epochs apart."""
    if file.suffix == ".eval":
        for _, sample in zipped_json(file, lambda member: member.startswith("samples/")):
            yield _mapping(sample)
    else:
        yield from _mappings(json_object(file, "a log of Inspect").get("samples"))


def _slim(sample: Log) -> Log:
    """A sample without its events, messages and store, which can be large."""
    output = _mapping(sample.get("output"))
    answer = output.get("completion")
    if answer is None:
        first = next(iter(_mappings(output.get("choices"))), {})
        answer = _content(_mapping(first.get("message")).get("content"))
    attachments = _mapping(sample.get("attachments"))
    return {
        "id": sample.get("id"),
        "epoch": sample.get("epoch"),
        "input": sample.get("input"),
        "choices": sample.get("choices"),
        "target": sample.get("target"),
        "metadata": sample.get("metadata"),
        "scores": sample.get("scores"),
        "answer": attachments.get(str(answer).removeprefix(_ATTACHMENT), answer),
        "prompt": _prompt(sample.get("input"), attachments),
    }


def _reductions(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What Inspect's reducers made of the epochs: value by sample, by scorer and reducer."""
    if file.suffix == ".eval":
        logged = next((content for _, content in zipped_json(file, lambda member: member == _REDUCTIONS)), None)
    else:
        logged = json_object(file, "a log of Inspect").get("reductions")
    return {
        (str(entry.get("scorer")), "none" if entry.get("reducer") in (None, "mean") else str(entry.get("reducer"))): {
            str(sample.get("sample_id")): sample.get("value") for sample in _mappings(entry.get("samples"))
        }
        for entry in _mappings(logged)
    }


def _reduced(
    metric: _Metric,
    sample_id: str,
    epochs: Sequence[Log],
    reductions: Mapping[tuple[str, str], Mapping[str, Any]],
) -> float:
    """A sample's score over its epochs; NaN where there is none."""
    reduced = reductions.get((metric.scorer, metric.filter))
    if reduced is not None:
        return _number(reduced.get(sample_id), metric.score)
    if metric.filter != "none":
        return math.nan
    scores = [_mapping(_mapping(epoch.get("scores")).get(metric.scorer)).get("value") for epoch in epochs]
    return sum(_number(score, metric.score) for score in scores) / len(scores)


def _number(value: Any, score: str) -> float:
    """A score as a number, by Inspect's own reading of its letters and words; NaN for what is none."""
    if isinstance(value, Mapping):
        value = cast(Log, value).get(score)
    if isinstance(value, str):
        value = _WORDS.get(value, _WORDS.get(value.lower(), value))
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _sample(index: int, epochs: Sequence[Log], values: Mapping[str, float]) -> Sample:
    first = epochs[0]
    asked = {"id": first.get("id"), "input": _asked(first.get("input")), "choices": first.get("choices")}
    target = first.get("target")
    text = target if isinstance(target, str) else json.dumps(target, ensure_ascii=False)
    return Sample(
        doc_id=index,
        doc_hash=text_hash({**asked, "target": target}),
        prompt_hash=text_hash(asked),
        target_hash=text_hash(text),
        doc={**asked, "target": target, "metadata": first.get("metadata")},
        target=text,
        prompt=str(first.get("prompt")),
        choices=(),
        responses=[epoch.get("answer") for epoch in epochs],
        values=values,
    )


def _asked(given: Any) -> Any:
    """A sample's input; of messages role and content, since each run gives them ids of its own."""
    if not isinstance(given, list):
        return given
    return [{"role": message.get("role"), "content": message.get("content")} for message in _mappings(given)]


def _prompt(given: Any, attachments: Log) -> str:
    texts = [_content(message.get("content")) for message in _mappings(given)] if isinstance(given, list) else [given]
    return "\n\n".join(str(attachments.get(str(text).removeprefix(_ATTACHMENT), text)) for text in texts)


def _content(content: Any) -> str:
    """A message's text; images and the like by their kind."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or f"<{part.get('type')}>") for part in _mappings(content))
    return str(content or "")


def _mapping(value: Any) -> Log:
    return cast(Log, value) if isinstance(value, Mapping) else {}


def _mappings(values: Any) -> list[Log]:
    items: Iterable[Any] = cast(list[Any], values) if isinstance(values, list) else ()
    return [cast(Log, value) for value in items if isinstance(value, Mapping)]
