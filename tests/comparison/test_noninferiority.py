"""Kept, lost, or cannot tell."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from grains_eval.comparison import intervals as statistics
from grains_eval.comparison.estimates import Row
from grains_eval.comparison.noninferiority import judge, judge_rows
from grains_eval.comparison.proportions import lower_end, tail
from tests.comparison.rows import preserved, row


@pytest.mark.parametrize(
    ("difference", "half", "answer"),
    [
        (0.0, 0.005, "kept"),
        (-0.004, 0.005, "kept"),
        (0.05, 0.055, "kept"),
        (-0.03, 0.01, "lost"),
        (-0.004, 0.01, "cannot tell"),
        (-0.03, 0.025, "cannot tell"),
    ],
)
def test_answers(difference: float, half: float, answer: str) -> None:
    assert judge(row(difference, half), 0.01).answer == answer


def test_lower_is_better_turns_the_sign() -> None:
    worse = row(0.03, 0.01, higher_is_better=False)
    assert judge(worse, 0.01).answer == "lost"
    assert judge(worse, 0.01).gain == -0.03


def test_margin_is_a_share_of_the_scale() -> None:
    assert judge(row(-0.9, 0.05, scale=100.0, baseline=30.0), 0.01).answer == "kept"
    assert judge(row(-0.5, 0.1, scale=0.0, baseline=20.0), 0.01).answer == "lost"
    assert judge(row(-0.5, 0.1, scale=0.0, baseline=20.0), 0.01).margin == pytest.approx(0.2)


def test_items_needed_would_tell() -> None:
    """With the promised number of items, four runs in five of the same world give a verdict."""
    helped, harmed, n, margin = 0.03, 0.032, 500, 0.01
    observed = (round(helped * n), round(harmed * n))
    low, high = lower_end(*observed, n, 0.025), -lower_end(*observed[::-1], n, 0.025)
    verdict = judge(row((observed[0] - observed[1]) / n, 0, interval=(low, high), n=n), margin)
    assert verdict.answer == "cannot tell"
    assert verdict.items_needed is not None
    assert verdict.items_needed > n
    shares = [observed[0] / n, observed[1] / n]
    counts = np.random.default_rng(0).multinomial(verdict.items_needed, [*shares, 1 - sum(shares)], size=400)
    told = [tail(int(a), int(b), verdict.items_needed, -margin) <= 0.025 for a, b, _ in counts]
    assert np.mean(told) == pytest.approx(0.8, abs=0.07)


def test_no_number_of_items_tells_on_the_margin() -> None:
    assert judge(row(-0.01, 0.02), 0.01).items_needed is None


def test_identical_answers_on_few_items_are_not_proof() -> None:
    same = statistics.paired([1.0, 0.0, 1.0] * 10, [1.0, 0.0, 1.0] * 10)
    assert judge(row(0.0, 0.0, interval=same.interval, n=30), 0.01).answer == "cannot tell"
    many = statistics.paired([1.0, 0.0] * 500, [1.0, 0.0] * 500)
    assert judge(row(0.0, 0.0, interval=many.interval, n=1000), 0.01).answer == "kept"


def test_kept_is_wrong_at_most_as_often_as_promised() -> None:
    """True loss exactly the margin: 'kept' in at most alpha / 2 of runs."""
    generator = np.random.default_rng(1)
    n, margin, repeats, kept = 800, 0.02, 4_000, 0
    known: dict[tuple[int, int], float] = {}
    for helped, harmed, _ in generator.multinomial(n, [0.04, 0.06, 0.90], size=repeats).tolist():
        if (helped, harmed) not in known:
            known[helped, harmed] = tail(helped, harmed, n, -margin)
        kept += known[helped, harmed] <= 0.025
    assert kept / repeats <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / repeats)


def test_all_kept_is_one_claim_and_single_ones_are_adjusted() -> None:
    """Three tasks that are each kept alone are kept together; where another is not, Holm decides."""
    near = (10, 10)
    alone = judge_rows(preserved(near), 0.01)
    assert [v.answer for v in alone] == ["kept"]
    together = judge_rows(preserved(near, near, near), 0.01)
    assert [v.answer for v in together] == ["kept"] * 3
    assert all(v.together and v.tasks == 3 for v in together)
    mixed = judge_rows(preserved(near, (0, 0), (0, 60)), 0.01)
    assert [v.answer for v in mixed] == ["cannot tell", "kept", "lost"]
    assert not any(v.together for v in mixed)


def test_lower_is_better_is_judged_on_its_own_side() -> None:
    rows = preserved((60, 0), (0, 60))
    turned = [Row(replace(r.comparison, higher_is_better=False), (), r.procedure) for r in rows]
    assert [v.answer for v in judge_rows(turned, 0.01)] == ["lost", "kept"]


def test_items_that_would_tell_come_in_whole_clusters() -> None:
    clustered = row(0.0, 0.02, clusters=20)
    verdict = judge(clustered, 0.01)
    assert verdict.clusters_needed is not None and verdict.items_needed == verdict.clusters_needed * 50
    assert judge(row(0.0, 0.02), 0.01).clusters_needed is None
    few = judge(row(0.0, math.nan, clusters=5, units_needed=12), 0.01)
    assert (few.answer, few.units_needed, few.items_needed) == ("cannot tell", 12, None)
