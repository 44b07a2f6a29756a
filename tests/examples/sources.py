"""Recipes' `data` sections, and rows to write."""

from __future__ import annotations

import json

from grains_eval.recipes import parse_recipe


def task_data(**keys):
    return parse_recipe({"name": "x", "data": {"task": "test_capitals", "examples": 5, "development": 4, **keys}}).data


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(n):
    return [
        {"prompt": f"question {i}", "chosen": f"right {i}", "rejected": f"wrong {i}", "group": i % 3} for i in range(n)
    ]


def file_data(path, **keys):
    return parse_recipe({"name": "x", "data": {"path": str(path), "examples": 4, "development": 3, **keys}}).data
