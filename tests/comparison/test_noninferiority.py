"""Kept, lost, or cannot tell."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from grains_eval.comparison import intervals as statistics
from grains_eval.comparison.estimates import Row
from grains_eval.comparison.noninferiority import judge, judge_rows
from grains_eval.comparison.proportions import lower_end, tail
from grains_eval.comparison.verdict import answer
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


@pytest.mark.parametrize(("difference", "reach"), [(0.0, 9.8), (0.004, 2.0), (-0.05, 3.0)])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_units_that_all_changed_alike_need_as_many_more_as_the_bound_says(
    difference: float, reach: float, higher_is_better: bool
) -> None:
    """The bound narrows with the number of units, not with its root: that many clear the margin, fewer do not."""

    def bound(units: int) -> tuple[float, float]:
        return statistics.NoSpread(difference, units, reach).interval(0.05)

    seen = row(difference, 0, interval=bound(71), n=269, clusters=71, test=statistics.NO_SPREAD, standard_error=0.0)
    low, high = seen.interval
    if not higher_is_better:
        seen = replace(seen, difference=-difference, interval=(-high, -low), higher_is_better=False)
    verdict = judge(seen, 0.01)
    assert verdict.answer == "cannot tell" and verdict.clusters_needed is not None

    def tells(units: int) -> bool:
        low, high = bound(units)
        return low >= -0.01 if difference > -0.01 else high <= -0.01

    assert tells(verdict.clusters_needed) and not tells(verdict.clusters_needed - 1)


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


@dataclass(frozen=True)
class Given:
    """A procedure with given one-sided p-values at one difference, and an interval that widens with the level."""

    value: float
    above: float
    below: float

    def tails(self, value: float) -> tuple[float, float]:
        assert value == self.value
        return self.above, self.below

    def interval(self, level: float) -> tuple[float, float]:
        return -0.03 * (1 - level), 0.03 * (1 - level)

    def detectable(self, level: float, power: float) -> float:
        raise AssertionError


def _given(*tails: tuple[float, float], higher: bool = True) -> list[Row]:
    """Rows with p-values of "the loss is the margin or more" and "the margin or less"."""
    return [
        Row(row(0.0, 0.02, higher_is_better=higher), (), Given(-0.01, *pair) if higher else Given(0.01, *pair[::-1]))
        for pair in tails
    ]


@pytest.mark.parametrize("higher", [True, False])
def test_each_side_is_judged_at_half_the_level(higher: bool) -> None:
    def answers(*tails: tuple[float, float]) -> list[str]:
        return [v.answer for v in judge_rows(_given(*tails, higher=higher), 0.01)]

    assert answers((0.025, 1.0)) == ["kept"] and answers((0.0251, 1.0)) == ["cannot tell"]
    assert answers((1.0, 0.025)) == ["lost"] and answers((1.0, 0.0251)) == ["cannot tell"]
    # together each passes its own level; where one does not, Holm asks half of the first, and all of the second
    assert answers((0.025, 1.0), (0.025, 1.0)) == ["kept", "kept"]
    assert answers((0.025, 1.0), (0.0251, 1.0)) == ["cannot tell", "cannot tell"]
    assert answers((0.0125, 1.0), (0.0251, 1.0)) == ["kept", "cannot tell"]
    assert answers((1.0, 0.0125), (1.0, 0.0251)) == ["lost", "cannot tell"]
    assert answers((1.0, 0.0126), (1.0, 0.0251)) == ["cannot tell", "cannot tell"]
    assert answers((0.0125, 1.0), (1.0, 0.0125), (1.0, 1.0)) == ["cannot tell"] * 3


def test_one_task_is_no_claim_of_all_and_methods_are_families_of_their_own() -> None:
    (alone,) = judge_rows(_given((0.001, 1.0)), 0.01)
    assert (alone.together, alone.tasks) == (False, 1)
    rows = _given((0.001, 1.0), (0.001, 1.0), (1.0, 1.0))
    rows[2] = replace(rows[2], comparison=replace(rows[2].comparison, method="caa"))
    assert [(v.answer, v.together, v.tasks) for v in judge_rows(rows, 0.01)] == [
        ("kept", True, 2),
        ("kept", True, 2),
        ("cannot tell", False, 1),
    ]


def test_what_would_tell_is_asked_of_the_level_that_decides() -> None:
    """With two tasks each has to pass half the level; the side of the interval counts that has to clear the margin."""
    unsure = (0.5, 0.5)
    one, two = (judge_rows(_given(*[unsure] * tasks), 0.01)[0].items_needed for tasks in (1, 2))
    # half-widths of .0285 and .02925 at 1,000 items, for 95 and 97.5 %
    for needed, half, quantile in ((one, 0.0285, 1.959964), (two, 0.02925, 2.241403)):
        assert needed == math.ceil(((quantile + 0.841621) / quantile * half / 0.01) ** 2 * 1_000)
    near = judge(row(0.0, 0.02), 0.01).items_needed
    assert judge(row(0.0, 0, interval=(-0.02, 0.09)), 0.01).items_needed == near
    below = judge(row(-0.02, 0, interval=(-0.09, 0.0)), 0.01).items_needed
    assert below == near


def test_the_interval_of_a_gain_turns_with_the_metric() -> None:
    found = judge(row(0.002, 0, interval=(-0.003, 0.02), higher_is_better=False), 0.01)
    assert (found.gain, found.interval, found.answer) == (-0.002, (-0.02, 0.003), "cannot tell")
    assert judge(row(0.002, 0, interval=(-0.003, 0.0099), higher_is_better=False), 0.01).answer == "kept"
    # on the margin itself nothing is shown
    assert judge(row(0.0, 0, interval=(-0.01, 0.02)), 0.01).answer == "cannot tell"
    assert judge(row(-0.02, 0, interval=(-0.03, -0.01)), 0.01).answer == "cannot tell"


def test_an_answer_takes_an_adjusted_p_below_the_level() -> None:
    for p, higher, difference, said in (
        (0.0499, True, 0.1, "better"), (0.05, True, 0.1, "not shown"), (0.01, False, 0.1, "worse"),
        (0.01, False, -0.1, "better"), (0.01, True, -0.1, "worse"), (0.01, None, 0.1, "changed"),
    ):  # fmt: skip
        assert answer(row(difference, 0.02, adjusted_p=p, p=0.001, higher_is_better=higher), 0.05) == said


def test_clusters_that_would_tell_are_counted_from_the_clusters_there_are() -> None:
    """Twice the power's distance off: the interval's width falls with the root of the clusters, not of the items."""
    wanted = ((1.959964 + 0.841621) / 1.959964 * 0.02 / 0.01) ** 2
    clustered, independent = judge(row(0.0, 0.02, clusters=20), 0.01), judge(row(0.0, 0.02), 0.01)
    assert clustered.clusters_needed == math.ceil(wanted * 20) and clustered.items_needed == math.ceil(wanted * 20) * 50
    assert independent.items_needed == math.ceil(wanted * 1_000)
