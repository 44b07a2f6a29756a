"""The two or three sentences on top."""

from __future__ import annotations

from dataclasses import replace

from grains_eval.comparison.controls import AgainstControl
from grains_eval.comparison.estimates import Row
from grains_eval.comparison.noninferiority import judge, judge_rows
from grains_eval.comparison.verdict import answer
from grains_eval.report.formatting import rounded
from grains_eval.report.headline import NO_PRESERVATION, headline, would_tell
from grains_eval.types import Comparison
from tests.comparison.rows import FEW, INDEPENDENT, RESAMPLED, preserved, row


def test_one_method_headline() -> None:
    better = row(0.124, 0.04, task="truthfulqa_mc1", n=767, excluded=50, adjusted_p=0.0001, baseline=0.341)
    better = Comparison(**{**vars(better), "steered": 0.465})
    text = headline([better], [judge(row(-0.001, 0.004), 0.01)], 0.05)
    assert text == (
        "grains: improves truthfulqa_mc1 acc from 34.1 to 46.5, +12.4 points (95 % interval +8.4 to +16.4, "
        "adjusted p < .001, 767 held-out items). mmlu acc is kept, −0.1 (−0.5 to +0.3), margin 1.0 points, "
        "1,000 items."
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
        "mmlu acc (1,000 items) is improved by 2 of 4 methods: grains +10.0 (+8.0 to +12.0), caa +5.0 (+3.0 to +7.0); "
        "worsened by icv −6.0 (−8.0 to −4.0). mmlu acc (1,000 items, margin 1.0 points): kept by grains, "
        f"lost by caa (−10.0), cannot tell for icv (about {rounded(verdicts[2].items_needed or 0)} "
        "items would)."
    )
    none = headline([row(0.01, 0.02, method=m) for m in ("a", "b")], [], 0.05)
    assert none.startswith(
        "None of 2 methods is shown to improve mmlu acc (1,000 items): the largest change is a's +1.0"
    )
    assert headline([], [], 0.05).startswith("No method was compared")


def test_too_few_clusters_are_no_verdict_and_say_how_many_would_do() -> None:
    few = "9 clusters are too few for any test, which takes about 20"
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
        "mmlu acc (1,000 items) is improved by 1 of 2 methods: caa +10.0 (+8.0 to +12.0); "
        f"no verdict on mmlu acc for grains: {few}. "
        f"mmlu acc (1,000 items in 9 clusters, margin 1.0 points): no verdict for grains, caa ({few})."
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
        "margin 1.0 points, 1,000 items; error rates guaranteed, provided that items are independent."
    )
    assert headline([], [sure, rough], 0.05).endswith(
        "; error rates guaranteed, provided that items are independent (mmlu acc); error rates approximate, provided "
        "that clusters are independent, and many enough for a bootstrap (arc acc)."
    )


def test_all_kept_is_said_as_one_claim() -> None:
    near = (10, 10)
    kept = [replace(v, task=task) for v, task in zip(judge_rows(preserved(near, near, near), 0.01), "abc", strict=True)]
    assert (
        headline([], kept, 0.05)
        .partition(". ")[2]
        .startswith("grains: all 3 preserved tasks are kept, as one claim: a acc is kept, +0.0 (")
    )
    both = [*kept, *(replace(v, method="caa") for v in kept), replace(kept[0], method="icv", together=False)]
    assert headline([], both, 0.05).partition(". ")[2] == (
        "grains, caa: all 3 preserved tasks are kept, as one claim each; "
        "a acc (1,000 items, margin 1.0 points): kept by icv."
    )
    mixed = judge_rows(preserved(near, (0, 0), (0, 60)), 0.01)
    assert "claim" not in headline([], mixed, 0.05)


def test_methods_are_listed_from_the_largest_change() -> None:
    def several(*gains: float, higher: bool = True) -> str:
        rows = [row(x, 0.01, method=f"m{i}", adjusted_p=0.001, higher_is_better=higher) for i, x in enumerate(gains)]
        return headline(rows, [], 0.05)

    found = several(0.05, 0.1, 0.07, -0.03, -0.09, -0.06)
    assert "improved by 3 of 6 methods: m1 +10.0 (+9.0 to +11.0), m2 +7.0 (+6.0 to +8.0), m0 +5.0" in found
    assert "worsened by m4 −9.0 (−10.0 to −8.0), m5 −6.0 (−7.0 to −5.0), m3 −3.0" in found
    turned = several(0.05, -0.1, -0.07, higher=False)
    assert "improved by 2 of 3 methods: m1 −10.0 (−11.0 to −9.0), m2 −7.0" in turned and "worsened by m0 +5.0" in turned
    none = [row(x, 0.2, method=f"m{i}", higher_is_better=False) for i, x in enumerate((0.05, -0.02))]
    assert "the largest change is m1's −2.0" in headline(none, [], 0.05)


def test_of_several_without_a_verdict_the_one_that_needs_most_is_named() -> None:
    much = {**FEW, "units_needed": 45}
    rows = [row(0.1, 0.0, method=m, **few) for m, few in (("a", FEW), ("b", much))]
    said = "9 clusters are too few for any test, which takes about 45"
    assert headline(rows, [], 0.05).startswith(f"No verdict on mmlu acc for any of 2 methods: {said}.")
    text = headline([], [judge(one, 0.01) for one in rows], 0.05)
    assert f"no verdict for a, b ({said})" in text
