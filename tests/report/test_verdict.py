"""Kept, lost, or cannot tell; and the two sentences on top."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from grains_eval.report import statistics
from grains_eval.report.compare import Row
from grains_eval.report.data import AgainstControl
from grains_eval.report.headline import NO_PRESERVATION, headline, would_tell
from grains_eval.report.shares import lower_end, tail
from grains_eval.report.verdict import judge, judge_rows
from grains_eval.report.wording import answer, change, interval, level, number, p_phrase, p_value, rounded
from grains_eval.types import Comparison


def row(difference: float, half: float, **changes: object) -> Comparison:
    fields: dict[str, object] = {
        "task": "mmlu", "metric": "acc", "n": 1000, "baseline": 0.6, "steered": 0.6 + difference,
        "difference": difference, "standard_error": half / 1.96,
        "interval": (difference - half, difference + half),
        "p": 0.5, "adjusted_p": 0.5, "test": "exact McNemar", "helped": 1, "harmed": 1, "unchanged": 998,
        "method": "grains", "minimum_detectable_effect": 0.021,
    }  # fmt: skip
    return Comparison(**{**fields, **changes})  # type: ignore[arg-type]


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


def test_one_method_headline() -> None:
    better = row(0.124, 0.04, task="truthfulqa_mc1", n=767, excluded=50, adjusted_p=0.0001, baseline=0.341)
    better = Comparison(**{**vars(better), "steered": 0.465})
    text = headline([better], [judge(row(-0.001, 0.004), 0.01)], 0.05)
    assert text == (
        "grains: improves truthfulqa_mc1 acc from 34.1 to 46.5, +12.4 points (95 % interval +8.4 to +16.4, "
        "adjusted p < .001, 767 held-out items). mmlu acc is kept, −0.1 (−0.5 to +0.3), margin 1.0 points."
    )


def test_nothing_happened_headline() -> None:
    text = headline([row(0.004, 0.014, task="toxigen")], [], 0.05)
    assert "no change of toxigen acc is shown, +0.4 points" in text
    assert "a change of 2.1 would have been found with 80 % power" in text
    assert text.endswith(NO_PRESERVATION)


def test_many_methods_headline() -> None:
    rows = [
        row(0.1, 0.02, method="grains", adjusted_p=0.001),
        row(0.05, 0.02, method="caa", adjusted_p=0.01),
        row(-0.06, 0.02, method="icv", adjusted_p=0.01),
        row(0.01, 0.02, method="iti", adjusted_p=1.0),
    ]
    verdicts = [
        judge(row(0.0, 0.005, method="grains"), 0.01),
        judge(row(-0.1, 0.005, method="caa"), 0.01),
        judge(row(0.0, 0.02, method="icv"), 0.01),
    ]
    text = headline(rows, verdicts, 0.05)
    assert text == (
        "mmlu acc is improved by 2 of 4 methods: grains +10.0 (+8.0 to +12.0), caa +5.0 (+3.0 to +7.0); "
        "worsened by icv −6.0 (−8.0 to −4.0). mmlu acc (margin 1.0 points): kept by grains, "
        f"lost by caa (−10.0), cannot tell for icv (about {rounded(verdicts[2].items_needed or 0)} "
        "items would)."
    )
    none = headline([row(0.01, 0.02, method=m) for m in ("a", "b")], [], 0.05)
    assert none.startswith("None of 2 methods is shown to improve mmlu acc: the largest change is a's +1.0")
    assert headline([], [], 0.05).startswith("No method was compared")


def test_numbers_as_text() -> None:
    assert number(-0.04, 1) == "0.0"
    assert number(-1.25, 1) == "−1.2"
    assert number(math.nan, 1) == "–"
    assert (level(0.341, 1), level(30.27, 100), level(5.4321, 0)) == ("34.1", "30.3", "5.432")
    assert change(0.0, 1) == "+0.0"
    assert interval((-0.01, 0.02), 1) == "−1.0 to +2.0"
    assert (p_value(0.0004), p_value(0.0456), p_value(1.0), p_value(math.nan)) == ("<.001", ".046", "1", "–")
    assert (p_value(0.9994), p_value(0.99951)) == (".999", "1")
    assert (p_phrase(0.0004), p_phrase(0.2)) == ("p < .001", "p = .200")
    assert (rounded(7), rounded(123), rounded(6456), rounded(100_001)) == ("7", "130", "6,500", "110,000")


def test_more_items_than_anybody_has_are_not_counted() -> None:
    assert rounded(1_000_000) == "1,000,000"
    assert rounded(1_000_001) == "more than a million"


def _preserved(*counts: tuple[int, int], n: int = 1_000) -> list[Row]:
    made: list[Row] = []
    for helped, harmed in counts:
        procedure = statistics.BinaryPairs(helped, harmed, n)
        comparison = row((helped - harmed) / n, 0, interval=procedure.interval(0.05), n=n)
        made.append(Row(comparison, (), procedure))
    return made


def test_all_kept_is_one_claim_and_single_ones_are_adjusted() -> None:
    """Three tasks that are each kept alone are kept together; where another is not, Holm decides."""
    near = (10, 10)
    alone = judge_rows(_preserved(near), 0.01)
    assert [v.answer for v in alone] == ["kept"]
    together = judge_rows(_preserved(near, near, near), 0.01)
    assert [v.answer for v in together] == ["kept"] * 3
    assert all(v.together and v.tasks == 3 for v in together)
    mixed = judge_rows(_preserved(near, (0, 0), (0, 60)), 0.01)
    assert [v.answer for v in mixed] == ["cannot tell", "kept", "lost"]
    assert not any(v.together for v in mixed)


def test_lower_is_better_is_judged_on_its_own_side() -> None:
    rows = _preserved((60, 0), (0, 60))
    turned = [Row(replace(r.comparison, higher_is_better=False), (), r.procedure) for r in rows]
    assert [v.answer for v in judge_rows(turned, 0.01)] == ["lost", "kept"]


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


def test_items_that_would_tell_come_in_whole_clusters() -> None:
    clustered = row(0.0, 0.02, clusters=20)
    verdict = judge(clustered, 0.01)
    assert verdict.clusters_needed is not None and verdict.items_needed == verdict.clusters_needed * 50
    assert judge(row(0.0, 0.02), 0.01).clusters_needed is None
    few = judge(row(0.0, math.nan, clusters=5, units_needed=12), 0.01)
    assert (few.answer, few.units_needed, few.items_needed) == ("cannot tell", 12, None)


INDEPENDENT: dict[str, Any] = {"assumption": "items are independent", "guaranteed": True}
RESAMPLED: dict[str, Any] = {"assumption": "clusters are independent, and many enough for a bootstrap", "clusters": 20}
FEW: dict[str, Any] = {
    "clusters": 9,
    "units_needed": 20,
    "interval": (math.nan, math.nan),
    "p": math.nan,
    "adjusted_p": math.nan,
}


def test_too_few_clusters_are_no_verdict_and_say_how_many_would_do() -> None:
    few = "9 clusters are too few for a test, about 20 like them would do"
    lone = row(0.159, 0.0, task="truthful", **FEW)
    assert answer(lone, 0.05) == "no verdict"
    text = headline([lone], [judge(row(-0.02, 0.0, **FEW), 0.01)], 0.05)
    assert text == (
        f"grains: no verdict on truthful acc, +15.9 points: {few}. "
        f"mmlu acc has no verdict, −2.0, margin 1.0 points: {few}."
    )
    other = row(0.1, 0.02, method="caa", adjusted_p=0.001)
    verdicts = [judge(row(0.0, 0.0, method=m, **FEW), 0.01) for m in ("grains", "caa")]
    text = headline([row(0.1, 0.0, **FEW), other], verdicts, 0.05)
    assert text == (
        f"mmlu acc is improved by 1 of 2 methods: caa +10.0 (+8.0 to +12.0); no verdict on mmlu acc for grains: {few}. "
        f"mmlu acc (margin 1.0 points): no verdict for grains, caa ({few})."
    )
    assert headline([row(0.1, 0.0, method=m, **FEW) for m in "ab"], [], 0.05).startswith(
        f"No verdict on mmlu acc for any of 2 methods: {few}."
    )


def test_a_method_against_a_control_with_too_few_clusters_cannot_be_told() -> None:
    rival = AgainstControl("grains", "random", Row(row(0.1, 0.0, **FEW), ()))
    text = headline([row(0.1, 0.02, adjusted_p=0.001)], [], 0.05, [rival])
    assert "But on mmlu acc whether grains is better than its strongest control, random, cannot be told: 9 clus" in text


def test_what_would_tell_counts_clusters_where_there_are_clusters() -> None:
    items, clusters = judge(row(0.0, 0.02, **INDEPENDENT), 0.01), judge(row(0.0, 0.02, **RESAMPLED), 0.01)
    assert would_tell(items) == f"about {rounded(items.items_needed or 0)} items would"
    assert would_tell(clusters) == f"about {rounded(clusters.clusters_needed or 0)} clusters would"
    assert would_tell(judge(row(-0.01, 0.02, **RESAMPLED), 0.01)) == "no feasible number of clusters would"
    assert "mmlu acc cannot be told with 1,000 items in 20 clusters, +0.0" in headline([], [clusters], 0.05)


def test_error_rates_and_their_assumption_are_said_once() -> None:
    sure, rough = judge(row(0.0, 0.005, **INDEPENDENT), 0.01), judge(row(0.0, 0.005, task="arc", **RESAMPLED), 0.01)
    text = headline([row(0.1, 0.02, adjusted_p=0.001, **RESAMPLED)], [sure, sure], 0.05)
    assert "adjusted p = .001, 1,000 items in 20 clusters, approximate)" in text
    assert text.count("error rates") == 1 and text.endswith(
        "margin 1.0 points; error rates guaranteed, provided that items are independent."
    )
    assert headline([], [sure, rough], 0.05).endswith(
        "; error rates guaranteed, provided that items are independent (mmlu acc); error rates approximate, provided "
        "that clusters are independent, and many enough for a bootstrap (arc acc)."
    )


def test_all_kept_is_said_as_one_claim() -> None:
    near = (10, 10)
    kept = [
        replace(v, task=task) for v, task in zip(judge_rows(_preserved(near, near, near), 0.01), "abc", strict=True)
    ]
    assert (
        headline([], kept, 0.05)
        .partition(". ")[2]
        .startswith("grains: all 3 preserved tasks are kept, as one claim: a acc is kept, +0.0 (")
    )
    both = [*kept, *(replace(v, method="caa") for v in kept), replace(kept[0], method="icv", together=False)]
    assert headline([], both, 0.05).partition(". ")[2] == (
        "grains, caa: all 3 preserved tasks are kept, as one claim each; a acc (margin 1.0 points): kept by icv."
    )
    mixed = judge_rows(_preserved(near, (0, 0), (0, 60)), 0.01)
    assert "claim" not in headline([], mixed, 0.05)
