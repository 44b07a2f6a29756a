"""Broken results and samples: whatever stands in them, what leaves the readers is one line."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from grains_eval.comparison import compare
from grains_eval.comparison.logs import read_run
from grains_eval.errors import GrainsError
from tests.comparison.folders import STAMP, TaskData, bits, write_run
from tests.comparison.logs.samples import LMMS, log_of

WRONG = [
    None,
    [],
    {},
    "x",
    float("inf"),
    float("nan"),
    10**400,
    0,
    -1,
    True,
    [None],
    [[1]],
    {"a": None},
    "\ud800",
    "../x",
]
STEERING = [{"method": "grains", "kind": "vector", "doc_hashes": {"vectors": ["0"]}, "evaluation": {"tasks": ["t"]}}]
TASK = TaskData({"acc": bits(12, 0.5, 1), "f1": [[1, 1], [1, 0]] * 6}, reported={"f1": 2 / 3}, aggregation={"f1": "f1"})
OTHER = TaskData({**TASK.values, "acc": bits(12, 0.7, 2)}, reported={"f1": 2 / 3}, aggregation={"f1": "f1"})
RESULTS, ROWS = "results", "rows"
DRAWS = 150


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value; of lists only to the first element."""
    found = [above] if above else []
    if len(above) < 5:
        items = (
            value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
        )
        for key, item in items:
            found += places(item, (*above, key))
    return found


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = json.loads(json.dumps(value))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def lm_eval_run(home: Path) -> tuple[Path, Path, Path, Path]:
    first = write_run(home / "baseline", {"t": TASK}, groups={"g": (["t"], {"acc,none": 0.5})})
    second = write_run(home / "other", {"t": OTHER}, groups={"g": (["t"], {"acc,none": 0.5})}, steering=STEERING)
    inside = second / "org__model"
    return first, second, inside / f"results_{STAMP}.json", inside / f"samples_t_{STAMP}.jsonl"


def lmms_run(home: Path) -> tuple[Path, Path, Path, Path]:
    second = Path(shutil.copytree(LMMS / "steered", home / "other"))
    return LMMS / "baseline", second, next(second.glob("*_results.json")), next(second.glob("*films.jsonl"))


def inspect_run(home: Path) -> tuple[Path, Path, Path, Path | None]:
    second = Path(shutil.copy(log_of("steered", "capitals"), home / "log.json"))
    content = json.loads(second.read_text())
    content["samples"] = [{key: s[key] for key in ("id", "epoch", "input", "target", "metadata", "scores", "output")}
                          for s in content["samples"]]  # fmt: skip
    second.write_text(json.dumps({key: value for key, value in content.items() if key not in ("stats", "logging")}))
    return log_of("baseline", "capitals"), second, second, None


@pytest.mark.parametrize("made", [lm_eval_run, lmms_run, inspect_run])
def test_only_one_line_errors_leave_a_comparison(made: Any, tmp_path: Path) -> None:
    first, second, results_file, rows_file = made(tmp_path)
    baseline, results = read_run(first), json.loads(results_file.read_text())
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file else []
    compare(baseline, second)
    broken = [(RESULTS, path) for path in places(results)] + [(ROWS, path) for path in places(rows[3] if rows else {})]

    for what, path, value in random.Random(0).sample([(*place, value) for place in broken for value in WRONG], DRAWS):
        file, old = (results_file, results) if what == RESULTS else (rows_file, rows)
        text = file.read_text()
        changed = [put(old, path, value)] if what == RESULTS else [*rows[:3], put(rows[3], path, value), *rows[4:]]
        file.write_text("\n".join(map(json.dumps, changed)))
        try:
            compare(baseline, second)
        except GrainsError as error:
            assert "\n" not in str(error)
        except Exception as error:
            raise AssertionError(f"{value!r:.20} as {path} of {what}") from error
        file.write_text(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("configs",), None), (("configs",), []), (("configs", "t"), 5), (("config",), "x"), (("config",), None),
        (("group_subtasks",), None), (("group_subtasks", "g"), 5), (("group_subtasks", "g"), ["g"]),
        (("higher_is_better", "t"), "yes"), (("n-samples", "t"), []), (("results", "t"), None),
        (("configs", "t", "metric_list"), 5), (("configs", "t", "metric_list"), [5]), (("config", "steering"), 5),
        (("config", "model"), ["hf"]), (("config", "model_args"), {"dtype": 10**400}), (("model_name_sanitized",), []),
        (("results", "t", "acc,none"), 10**400), (("config", "steering"), [{"evaluation": {"preserve": 5}}]),
        (("config", "steering"), [{"doc_hashes": {"build": None}}]),
    ],
)  # fmt: skip
def test_results_of_another_shape(path: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    first, second, file, _ = lm_eval_run(tmp_path)
    file.write_text(json.dumps(put(json.loads(file.read_text()), path, value)))
    try:
        compare(first, second)
    except GrainsError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("key", ["configs", "group_subtasks", "higher_is_better", "n-samples"])
def test_what_is_wrong_is_named(key: str, tmp_path: Path) -> None:
    _, second, file, _ = lm_eval_run(tmp_path)
    results = json.loads(file.read_text())
    file.write_text(json.dumps({**results, key: [1]}))
    with pytest.raises(GrainsError, match=f"is damaged: '{key}' is not an object"):
        read_run(second)
    file.write_text(json.dumps({**results, key: {"t": 3}}))
    with pytest.raises(GrainsError, match=f"is damaged: '{key}: t' is not a"):
        read_run(second)


@pytest.mark.parametrize("tool", [lm_eval_run, lmms_run])
@pytest.mark.parametrize("number", [None, "x", float("inf"), 1.5, True])
def test_a_document_has_a_number(tool: Any, number: Any, tmp_path: Path) -> None:
    first, second, _, file = tool(tmp_path)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**row, "doc_id": number}) + "\n" for row in rows))
    with pytest.raises(GrainsError, match="has no whole number as doc_id"):
        compare(first, second)


@pytest.mark.parametrize("metrics", [None, "acc", 5, [["acc"]]])
def test_a_sample_lists_its_metrics_by_name(metrics: Any, tmp_path: Path) -> None:
    first, second, _, file = lm_eval_run(tmp_path)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**row, "metrics": metrics}) + "\n" for row in rows))
    with pytest.raises(GrainsError, match="has no list of names as metrics"):
        compare(first, second)
