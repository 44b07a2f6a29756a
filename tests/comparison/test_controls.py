"""Controls: declared by artifacts or the user, never guessed from names; the strongest is the rival."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grains_eval.comparison import Question
from grains_eval.comparison.controls import Band
from grains_eval.errors import GrainsError
from grains_eval.report import ReportData, compare_runs
from grains_eval.report.html import render_html
from grains_eval.report.tables import control_lines
from tests.comparison.folders import TaskData, write_run

PLAIN = TaskData({"acc": [0.0, 1.0] * 6})


def test_controls_are_known_by_their_artifacts(tmp_path: Path) -> None:
    write_run(tmp_path / "plain", {"t": PLAIN})
    kinds = {"first": "control", "second": "projection", "random_1": "method", "vocabulary": None}
    for name, kind in kinds.items():
        write_run(tmp_path / name, {"t": PLAIN}, steering=[{"method": "some", **({"kind": kind} if kind else {})}])
    paths = {name: tmp_path / name for name in ("plain", *kinds)}
    assert compare_runs(paths).controls == {"first", "second"}
    assert compare_runs(paths, question=Question(controls=["random_1"])).controls == {"random_1"}


def test_a_name_makes_no_control(tmp_path: Path) -> None:
    names = ("plain", "random_forest_prompt", "random_2", "random_tokens_raw_1", "grains_negated", "my vocabulary list")
    for name in names:
        write_run(tmp_path / name, {"t": PLAIN})
    assert compare_runs({name: tmp_path / name for name in names}).controls == set()
    assert compare_runs(
        {name: tmp_path / name for name in names}, question=Question(controls=["random_2"])
    ).controls == {"random_2"}
    with pytest.raises(GrainsError, match="unknown control run 'random_22'"):
        compare_runs({name: tmp_path / name for name in names}, question=Question(controls=["random_22"]))


def gaining(shares: dict[str, tuple[int, int]], root: Path, **kinds: str) -> ReportData:
    """Runs of 200 items: the first `a` of the 100 wrong ones are put right, and `b` from the end of them."""
    names = {"baseline": (0, 0), **shares}
    for name, (first, last) in names.items():
        wrong = [1.0] * first + [0.0] * (100 - first - last) + [1.0] * last
        steering = [{"method": name, "kind": kinds.get(name, "method")}] if name != "baseline" else None
        write_run(root / name, {"t": TaskData({"acc": [*wrong, *[1.0] * 100]})}, steering=steering)
    return compare_runs([root / name for name in names])


def test_vectors_without_the_vocabulary_direction_are_no_rival(tmp_path: Path) -> None:
    shares = {"grains": (60, 0), "vocabulary": (0, 5), "grains_without_vocabulary": (60, 0)}
    report = gaining(shares, tmp_path, vocabulary="control", grains_without_vocabulary="projection")
    assert report.controls == {"vocabulary", "grains_without_vocabulary"}
    assert [item.control for item in report.against_controls] == ["vocabulary"]
    assert "But on" not in report.headline


def test_the_rival_is_the_control_that_gained_most(tmp_path: Path) -> None:
    kinds = dict.fromkeys(("weak", "strong", "middling"), "control")
    shares = {"grains": (60, 0), "weak": (0, 2), "strong": (0, 50), "middling": (0, 30)}
    (rival,) = gaining(shares, tmp_path, **kinds).against_controls
    assert rival.control == "strong"
    harms = {"baseline": 1.0, "grains": 0.4, "weak": 0.95, "strong": 0.6, "middling": 0.8}
    for name, errors in harms.items():  # where lower is better
        values = [float(i < errors * 100) for i in range(100)]
        steering = [{"method": name, "kind": kinds.get(name, "method")}] if name != "baseline" else None
        task = TaskData({"error": values}, higher={"error": False})
        write_run(tmp_path / "lower" / name, {"t": task}, steering=steering)
    (rival,) = compare_runs([tmp_path / "lower" / name for name in harms]).against_controls
    assert (rival.method, rival.control) == ("grains", "strong")


def test_the_headline_says_when_a_control_does_as_well(tmp_path: Path) -> None:
    tied = gaining({"grains": (40, 0), "vocabulary": (0, 41)}, tmp_path / "tied", vocabulary="control")
    said = "But on t acc grains is not shown to be better than its strongest control, vocabulary: −0.5 ("
    assert "improves t acc" in tied.headline and said in tied.headline
    assert re.search(r"vocabulary: −0\.5 \(−\S+ to \+\S+, adjusted p = \.\d+\)|adjusted p = 1\)", tied.headline)
    (line,) = control_lines(tied)
    assert "is not shown to differ from its strongest control" in line and "adjusted p = " in line
    assert "over 200 items" in line
    lost = gaining({"grains": (20, 0), "vocabulary": (60, 0)}, tmp_path / "lost", vocabulary="control")
    assert "But on t acc grains is worse than its strongest control, vocabulary: −20.0 (" in lost.headline
    alone = gaining({"grains": (60, 0), "vocabulary": (5, 0)}, tmp_path / "alone", vocabulary="control")
    assert "improves t acc" in alone.headline and "control" not in alone.headline
    page = render_html(tied)
    assert "not shown to be better than its strongest control, vocabulary" in page


def test_one_draw_is_no_draws() -> None:
    one, two = (Band("random vectors", members, {}, {}, {}) for members in (("a",), ("a", "b")))
    assert (one.heading, two.heading) == ("random vectors, 1 draw", "random vectors, 2 draws")


def test_the_rivals_of_a_method_stand_at_its_own_setting_or_beside_none(tmp_path: Path) -> None:
    kinds = dict.fromkeys(("own", "other", "words"), "control")
    shares = {"grains": (60, 0), "caa": (60, 0), "lora": (60, 0), "own": (0, 20), "other": (0, 50), "words": (0, 10)}
    gaining(shares, tmp_path, **kinds)
    names = ("baseline", *shares)
    beside = {"grains": ("own",), "caa": ("other",)}
    report = compare_runs([tmp_path / name for name in names], question=Question(beside=beside))
    assert {item.method: item.control for item in report.against_controls} == {
        "grains": "own",
        "caa": "other",
        "lora": "other",  # it has no setting
    }
    report = compare_runs(
        [tmp_path / name for name in names], question=Question(beside={"grains": (), "caa": ("own", "other")})
    )
    assert {item.method: item.control for item in report.against_controls}["grains"] == "words"


def test_methods_against_their_controls_are_one_family(tmp_path: Path) -> None:
    shares = {"grains": (60, 0), "caa": (55, 0), "words": (0, 45)}
    found = [item.row.comparison for item in gaining(shares, tmp_path, words="control").against_controls]
    assert [row.method for row in found] == ["grains", "caa"]
    least, most = sorted(found, key=lambda row: row.p)
    assert least.adjusted_p == pytest.approx(2 * least.p)
    assert most.adjusted_p == pytest.approx(max(most.p, 2 * least.p))
