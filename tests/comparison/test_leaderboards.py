"""The leaderboards' counts of choices, against lm-eval's own tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml

from grains_eval.comparison.leaderboards import LEADERBOARDS, Benchmark

HOME = Path(lm_eval.__file__).parent / "tasks" / "leaderboard"
BENCHMARKS = {benchmark.name: benchmark for benchmark in LEADERBOARDS["open_llm_v2"].benchmarks}
# Where the choices stand in the documents: the lower bounds on the leaderboard's own page
# (https://huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization), and the number of options that the
# card of MMLU-Pro gives (https://huggingface.co/datasets/TIGER-Lab/MMLU-Pro).
MUSR = {"murder_mysteries": 0.5, "object_placements": 0.2, "team_allocation": 0.333}
MMLU_PRO = 1 / 10


class _Loader(yaml.SafeLoader):
    """YAML whose functions are left as their names."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def config(file: Path) -> dict[str, Any]:
    """A task's YAML with what it includes."""
    own = yaml.load(file.read_text(), _Loader)
    if not isinstance(own, dict):
        return {}
    return {**(config(file.parent / own["include"]) if "include" in own else {}), **own}


def tasks(folder: str) -> dict[str, dict[str, Any]]:
    found = [config(file) for file in sorted((HOME / folder).glob("*.yaml"))]
    return {entry["task"]: entry for entry in found if isinstance(entry.get("task"), str)}


def chances(benchmark: Benchmark) -> dict[str, float]:
    return {task: part.chance for part in benchmark.parts for task in part.tasks}


@pytest.mark.parametrize(("name", "folder"), [("leaderboard_bbh", "bbh_mc"), ("leaderboard_gpqa", "gpqa")])
def test_chance_is_one_over_the_choices_that_the_task_lists(name: str, folder: str) -> None:
    listed = {task: len(entry["doc_to_choice"]) for task, entry in tasks(folder).items()}
    assert {task: 1 / count for task, count in listed.items()} == chances(BENCHMARKS[name])


def test_chance_is_what_the_leaderboard_says_where_documents_list_the_choices() -> None:
    assert sorted(tasks("musr")) == [f"leaderboard_musr_{name}" for name in MUSR]
    wanted = {f"leaderboard_musr_{name}": pytest.approx(bound, abs=5e-4) for name, bound in MUSR.items()}
    assert chances(BENCHMARKS["leaderboard_musr"]) == wanted
    assert list(tasks("mmlu_pro")) == ["leaderboard_mmlu_pro"]
    assert chances(BENCHMARKS["leaderboard_mmlu_pro"]) == {"leaderboard_mmlu_pro": MMLU_PRO}


@pytest.mark.parametrize("name", ["leaderboard_ifeval", "leaderboard_math_hard"])
def test_generated_answers_are_not_rescaled(name: str) -> None:
    assert set(chances(BENCHMARKS[name]).values()) == {0.0}
