"""Runs with generations to judge: MMHal-Bench-like documents."""

from __future__ import annotations

import re

from tests.comparison.folders import TaskData, write_run

TYPES = ("attribute", "adversarial", "comparison", "counting")
COUNT = 16


def documents(count=COUNT):
    return [
        {
            "index": number,
            "question_type": TYPES[number % 4],
            "image_content": ["Dog", "Tree"],
            "question": f"What is thing {number}?",
            "gt_answer": f"answer {number}",
        }
        for number in range(count)
    ]


def answers(good, count=COUNT):
    """The first `good` answers are right."""
    return [[f"item {number} is {'right' if number < good else 'wrong'}"] for number in range(count)]


def write(folder, good=8, task="mmhal_bench", count=COUNT, docs=None, **task_options):
    data = TaskData(
        values={"empty": [0.0] * count},
        higher={"empty": False},
        docs=docs or documents(count),
        responses=answers(good, count),
        targets=[f"answer {number}" for number in range(count)],
        prompts=[f"What is thing {number}?" for number in range(count)],
        metadata={"version": 1.0, "cluster_key": "question_type"},
        config={"output_type": "generate_until"},
        **task_options,
    )
    return write_run(folder, {task: data})


def number_of(prompt):
    return int(re.search(r"item (\d+) is", prompt)[1])


def rate(prompt):
    """6 for a right answer and 1 for a wrong one."""
    return f"Because of this.\nRating: {6 if ' is right' in prompt else 1}"
