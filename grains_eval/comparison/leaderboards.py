"""Leaderboards: which tasks of lm-eval a benchmark is made of, and how its score is formed from theirs.

`open_llm_v2` is the Open LLM Leaderboard of June 2024 to March 2025, over the harness's group `leaderboard`. Every
subtask is rescaled so that guessing is 0 and the maximum 1, and what lies below guessing is 0 as well; then subtasks
are averaged (https://huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization). `open_llm_v1` is its
predecessor, over the harness's group `openllm`: plain scores and their mean
(https://huggingface.co/docs/leaderboards/open_llm_leaderboard/archive).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from grains_eval.comparison.runs import leaf_tasks


@dataclass(frozen=True)
class Part:
    """What is rescaled by itself: a subtask, or several whose documents count as one set.

    Attributes:
        tasks: Its tasks of lm-eval.
        metrics: Keys of their metrics; of several the mean.
        chance: Score of guessing; 0 where nothing is rescaled.
    """

    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    chance: float = 0.0

    def rescaled(self, score: float) -> float:
        """0 for guessing and below, 1 for the maximum."""
        return max(0.0, (score - self.chance) / (1 - self.chance))


@dataclass(frozen=True)
class Benchmark:
    """A column of a leaderboard: the mean of its parts' scores.

    Attributes:
        name: Task or group of lm-eval.
        shots: Few-shot examples that the leaderboard gives.
        parts: Its parts; of a group of equal subtasks none, since its leaves are they.
        metric: Key of the metric of such a group.
        question: Field by which documents of several tasks are the same question, and not independent.
    """

    name: str
    shots: int
    parts: tuple[Part, ...] = ()
    metric: str = ""
    question: str = ""

    def parts_in(self, results: Mapping[str, Any]) -> tuple[Part, ...]:
        """Its parts, in the words of a results file; none where it was not evaluated."""
        return self.parts or tuple(Part((leaf,), (self.metric,)) for leaf in leaf_tasks(results, self.name))

    def tasks_in(self, results: Mapping[str, Any]) -> tuple[str, ...]:
        """Its tasks of lm-eval."""
        return tuple(task for part in self.parts_in(results) for task in part.tasks)


@dataclass(frozen=True)
class Leaderboard:
    """Benchmarks whose mean is quoted.

    Attributes:
        group: The harness's group, by whose name the mean goes.
        benchmarks: What it averages.
    """

    group: str
    benchmarks: tuple[Benchmark, ...]

    def tasks_in(self, results: Mapping[str, Any]) -> tuple[str, ...]:
        """All tasks of lm-eval that it is made of."""
        return tuple(task for benchmark in self.benchmarks for task in benchmark.tasks_in(results))

    def expanded(self, names: Iterable[str], results: Mapping[str, Any]) -> list[str]:
        """Names with the leaderboard's own, and those of its benchmarks, in terms of the tasks that were evaluated."""
        named = {benchmark.name: benchmark.tasks_in(results) for benchmark in self.benchmarks}
        named[self.group] = self.tasks_in(results)
        found = [task for name in names for task in self._evaluated(named.get(name, ()), results) or (name,)]
        return list(dict.fromkeys(found))

    @staticmethod
    def _evaluated(tasks: Iterable[str], results: Mapping[str, Any]) -> list[str]:
        return [task for task in tasks if task in results.get("configs", {})]


# Choices of a question in each subtask of BIG-Bench Hard (`doc_to_choice` of the harness's tasks).
_BBH_CHOICES = {
    "boolean_expressions": 2, "causal_judgement": 2, "date_understanding": 6, "disambiguation_qa": 3,
    "formal_fallacies": 2, "geometric_shapes": 11, "hyperbaton": 2, "logical_deduction_five_objects": 5,
    "logical_deduction_seven_objects": 7, "logical_deduction_three_objects": 3, "movie_recommendation": 6,
    "navigate": 2, "object_counting": 19, "penguins_in_a_table": 5, "reasoning_about_colored_objects": 18,
    "ruin_names": 6, "salient_translation_error_detection": 6, "snarks": 2, "sports_understanding": 2,
    "temporal_sequences": 4, "tracking_shuffled_objects_five_objects": 5, "tracking_shuffled_objects_seven_objects": 7,
    "tracking_shuffled_objects_three_objects": 3, "web_of_lies": 2,
}  # fmt: skip
_MUSR_CHOICES = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}
_MATH = (
    "algebra", "counting_and_prob", "geometry", "intermediate_algebra", "num_theory", "prealgebra", "precalculus",
)  # fmt: skip


def _by_choices(prefix: str, choices: Mapping[str, int]) -> tuple[Part, ...]:
    return tuple(Part((f"{prefix}_{name}",), ("acc_norm,none",), 1 / count) for name, count in choices.items())


def _alone(task: str, metric: str, chance: float = 0.0) -> tuple[Part, ...]:
    return (Part((task,), (metric,), chance),)


_GPQA = Part(
    tuple(f"leaderboard_gpqa_{subset}" for subset in ("diamond", "extended", "main")), ("acc_norm,none",), 0.25
)
LEADERBOARDS: Mapping[str, Leaderboard] = {
    "open_llm_v2": Leaderboard(
        "leaderboard",
        (
            Benchmark(
                "leaderboard_ifeval",
                0,
                (Part(("leaderboard_ifeval",), ("prompt_level_strict_acc,none", "inst_level_strict_acc,none")),),
            ),
            Benchmark("leaderboard_bbh", 3, _by_choices("leaderboard_bbh", _BBH_CHOICES)),
            Benchmark(
                "leaderboard_math_hard",
                4,
                (Part(tuple(f"leaderboard_math_{name}_hard" for name in _MATH), ("exact_match,none",)),),
            ),
            # its diamond questions are among the main ones, and these among the extended
            Benchmark("leaderboard_gpqa", 0, (_GPQA,), question="Question"),
            Benchmark("leaderboard_musr", 0, _by_choices("leaderboard_musr", _MUSR_CHOICES)),
            Benchmark("leaderboard_mmlu_pro", 5, _alone("leaderboard_mmlu_pro", "acc,none", 0.1)),
        ),
    ),
    "open_llm_v1": Leaderboard(
        "openllm",
        (
            Benchmark("arc_challenge", 25, _alone("arc_challenge", "acc_norm,none")),
            Benchmark("hellaswag", 10, _alone("hellaswag", "acc_norm,none")),
            Benchmark("mmlu", 5, metric="acc,none"),
            Benchmark("truthfulqa_mc2", 0, _alone("truthfulqa_mc2", "acc,none")),
            Benchmark("winogrande", 5, _alone("winogrande", "acc,none")),
            Benchmark("gsm8k", 5, _alone("gsm8k", "exact_match,strict-match")),
        ),
    ),
}


def leaderboard_of(tasks: Iterable[str]) -> str | None:
    """The leaderboard whose group is among these tasks and groups, None where there is none."""
    named = set(tasks)
    return next((name for name, board in LEADERBOARDS.items() if board.group in named), None)
