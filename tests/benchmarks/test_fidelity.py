"""Correlations of fidelity with gains, by kind of tokens, and builds that are taken up again draw by draw."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fidelity
from benchmarks.fidelity import METHODS, correlations, known_builds
from grains_eval.attribution.fidelity import MEASURES


def build(world: str, tokens: str, draw: int, method: str, value: float, gain: float) -> dict[str, Any]:
    what = {"world": world, "draw": draw, "attribution": method, "tokens": tokens, "selection": "recipe"}
    return {**what, **dict.fromkeys(MEASURES, value), "gain": gain}


def a_world(world: str, tokens: str, sign: float) -> list[dict[str, Any]]:
    """Gains that rise (or fall) with fidelity over eight builds."""
    return [
        build(world, tokens, draw, method, 4.0 * draw + index, sign * (4 * draw + index))
        for draw in range(2)
        for index, method in enumerate(METHODS)
    ]


def test_text_and_image_tokens_of_the_same_builds_have_rows_of_their_own() -> None:
    rows = correlations([*a_world("images", "text", 1.0), *a_world("images", "image", -1.0)])
    assert [(row["tokens"], row["builds"], row["images"]) for row in rows[::3]] == [
        ("text", "all builds (8)", 1.0),
        ("text", "without random scores (6)", 1.0),
        ("image", "all builds (8)", -1.0),
        ("image", "without random scores (6)", -1.0),
    ]
    assert all(row["p"] < 0.01 and "within worlds" not in row for row in rows)
    other = [{**row, "selection": "top_k", "gain": -row["gain"]} for row in a_world("images", "text", 1.0)]
    rows = correlations([*a_world("images", "text", 1.0), *other])
    assert {(row["selection"], row["images"]) for row in rows} == {("recipe", 1.0), ("top_k", -1.0)}


def test_a_world_of_text_says_nothing_of_image_tokens() -> None:
    rows = correlations(
        [*a_world("split", "text", 1.0), *a_world("images", "text", 1.0), *a_world("images", "image", -1.0)]
    )
    last = rows[-1]
    assert last["tokens"] == "image" and last["split"] == "" and last["within worlds"] == -1.0
    assert "tokens" not in correlations(a_world("split", "text", 1.0))[0]


def test_equal_gains_have_no_correlation() -> None:
    rows = [{**row, "gain": 0.5} for row in a_world("split", "text", 1.0)] + a_world("shared", "text", 1.0)
    first = correlations(rows)[0]
    assert first["split"] == "" and first["shared"] == 1.0


def test_draws_that_were_measured_are_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    def measured(name: str, draws: list[int], examples: int) -> Any:
        asked.append(list(draws))
        for draw in draws:
            yield [build(name, "text", draw, "gradient", 1.0, float(draw))]

    monkeypatch.setattr(fidelity, "builds", measured)
    arguments = argparse.Namespace(runs=tmp_path, smoke=False, draws=2, examples=8)
    assert [row["draw"] for row in known_builds("split", arguments)] == [0, 1]
    arguments.draws = 3
    assert [row["draw"] for row in known_builds("split", arguments)] == [0, 1, 2]
    arguments.draws = 1
    assert [row["draw"] for row in known_builds("split", arguments)] == [0]
    assert asked == [[0, 1], [2]]
