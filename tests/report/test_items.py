"""The compact tables that the page makes its rows of items from."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from grains_eval.comparison import Question
from grains_eval.report import ReportData, compare_runs
from grains_eval.report.html import render_html
from grains_eval.report.items import item_tables
from tests.comparison import world
from tests.comparison.folders import TaskData, write_run

HOSTILE = "</script><script>alert(1)</script> \"quotes' \u202eright to left\u202c שלום <!-- & \u2028"


def test_every_item_of_every_method_is_there_in_full(report: ReportData) -> None:
    goal, skill = item_tables(report)
    assert (goal["task"], skill["task"]) == ("truthfulqa_mc1", "mmlu")
    assert [method["name"] for method in goal["methods"]] == ["grains", "caa"], "controls are not items' methods"
    assert len(goal["document"]) == 100 and len(skill["document"]) == 600
    place = goal["document"].index(57)
    assert goal["shared"][0] + goal["prompt"][place] == f"Q: {world.DOCS[57]['question']}\nA:"
    assert goal["clusters"][goal["cluster"][place]] == "c17"
    assert goal["choices"][place] == world.CHOICES and goal["right"][place] == 0
    rows = {r.comparison.method: r for r in report.rows if r.comparison.task == "truthfulqa_mc1"}
    for method in goal["methods"]:
        metric = rows[method["name"]].metrics[0]
        assert method["push"] == pytest.approx(metric.pushes.tolist(), abs=1e-4)
        assert method["margin"] == pytest.approx(metric.margins[1].tolist(), abs=1e-4)
        assert method["score"] == metric.steered.tolist()
        assert max(method["answer"][place]) == pytest.approx(
            max(float(one[0]) for one in metric.pairs[place][1].responses), abs=1e-4
        )


def test_texts_cannot_end_the_data_and_come_back_as_they_were(tmp_path: Path) -> None:
    docs = [{"question": HOSTILE, "id": n, "topic": f"{HOSTILE} {n % 20}"} for n in range(40)]
    for name in ("plain", "grains"):
        task = TaskData(
            {"acc": [float(name == "grains" or n % 3 > 0) for n in range(40)]},
            docs=docs,
            prompts=[f"{HOSTILE} {n}" for n in range(40)],
            responses=[[f"{HOSTILE}\ud800"] for _ in range(40)],
            targets=[HOSTILE] * 40,
            metadata={"version": 1.0, "cluster_key": "topic"},
        )
        write_run(tmp_path / name, {"t": task})
    compare_runs([tmp_path / "plain", tmp_path / "grains"], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" data-items="t, acc">(.*?)</script>', page, re.DOTALL)
    assert page.count("<script") == 2 and "<script>alert" not in page
    table = json.loads(found)
    assert table["shared"][0] + table["prompt"][7] == f"{HOSTILE} 7" and table["target"][7] == HOSTILE.strip()
    assert table["answer"][7] == f"{HOSTILE}?", "half a surrogate pair is in no UTF-8 file"
    assert table["clusters"][3] == f"{HOSTILE} 3"


def test_infinities_are_named_since_json_does_not_know_them(tmp_path: Path) -> None:
    for name, low in (("plain", -1.0), ("grains", -math.inf)):
        answers = [[["-2.0", "False"], [str(low), "False"]] for _ in range(40)]
        task = TaskData({"acc": [0.0, 1.0] * 20}, responses=answers, choices=[" a", " b"], targets=["0"] * 40)
        write_run(tmp_path / name, {"t": task})
    report = compare_runs([tmp_path / "plain", tmp_path / "grains"])
    (table,) = item_tables(report)
    assert table["methods"][0]["answer"][0] == [-2, "-Infinity"]
    assert "NaN" not in json.dumps(table, allow_nan=False) and render_html(report)


def test_prompts_that_differ_between_runs_are_both_there(tmp_path: Path) -> None:
    for name in ("plain", "prompt"):
        lead = "be right:\nnow\n" if name == "prompt" else ""
        task = TaskData({"acc": [0.0, 1.0] * 20}, prompts=[f"{lead}question {n}" for n in range(40)])
        entry = [{"method": "prompt", "instruction": "be right", "kind": "method"}] if lead else None
        write_run(tmp_path / name, {"t": task}, steering=entry)
    (table,) = item_tables(compare_runs([tmp_path / "plain", tmp_path / "prompt"], question=Question(targets=["t"])))
    (method,) = table["methods"]
    assert method["shared"] == ["be right:\nnow\n"], "lines that all prompts begin with are stored once"
    assert method["prompt"][3] == table["prompt"][3] == "question 3" and table["shared"] == [""]
