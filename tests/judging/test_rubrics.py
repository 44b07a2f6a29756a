"""Rubrics: the bundled ones, one's own, and what is wrong with one."""

from __future__ import annotations

from datetime import date

import pytest
import yaml

from grains_eval.errors import GrainsError
from grains_eval.judging.replies import Reply
from grains_eval.judging.rubrics import bundled, load_rubric, render
from grains_eval.judging.verdicts import read_preference, read_verdict

OWN = {
    "name": "own",
    "prompt": "{{ question }} {{ response }}",
    "verdict": {"pattern": r"score:\s*(\d+)", "low": 0, "high": 10},
    "higher_is_better": True,
}


def own(tmp_path, **changes):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({**OWN, **changes}))
    return str(file)


def test_the_bundled_rubrics_are_there():
    assert set(bundled()) == {"mmhal_bench", "spa_vl_harm", "spa_vl_help"}
    assert all(load_rubric(name).tasks == [name] for name in bundled())


WRONG = [
    ({"promt": "x"}, r"unknown key in rubric .*own.yaml 'promt': did you mean 'prompt'\?"),
    ({"verdict": {**OWN["verdict"], "hi": 3}}, r"'verdict.hi': did you mean 'verdict.high'"),
    ({"verdict": {"pattern": "("}}, "is not a regular expression"),
    ({"verdict": {"pattern": r"\d"}}, "has 0 groups; it needs one"),
    ({"verdict": {"pattern": r"(\d)(\d)"}}, "has 2 groups"),
    ({"verdict": {"pattern": "(a|b)", "values": {"a": 1, "A": 0}}}, "a label twice"),
    ({"prompt": "{{ question"}, "is not a Jinja template"),
    ({"shares": {"low": {"below": 3, "at_least": 2, "higher_is_better": True}}}, "exactly one of"),
    ({"shares": {"score": {"below": 3, "higher_is_better": True}}}, "the name of another metric"),
    ({"metric": "My Score"}, "is no name of a metric"),
    ({"generation": {"messages": []}}, "may not set messages"),
    ({"generation": {"temperature": float("nan")}}, "generation cannot be sent: Out of range float values"),
    ({"generation": {"seed": date(2020, 1, 1)}}, "generation cannot be sent: Object of type date"),
    ({"higher_is_better": None}, "higher_is_better"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_wrong_rubric_is_one_line(changes, message, tmp_path):
    with pytest.raises(GrainsError, match=message) as raised:
        load_rubric(own(tmp_path, **changes))
    assert "\n" not in str(raised.value)


def test_rubrics_that_are_not_there(tmp_path):
    with pytest.raises(GrainsError, match="did you mean 'mmhal_bench'"):
        load_rubric("mmhal_bnch")
    with pytest.raises(GrainsError, match="is not a file"):
        load_rubric("nowhere.yaml")
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(GrainsError, match="is not valid YAML"):
        load_rubric(str(tmp_path / "x.yaml"))
    (tmp_path / "x.yaml").write_text("[]")
    with pytest.raises(GrainsError, match="is not a mapping"):
        load_rubric(str(tmp_path / "x.yaml"))


def test_a_rubric_is_known_by_all_that_it_says(tmp_path):
    first = load_rubric(own(tmp_path)).fingerprint
    assert first != load_rubric(own(tmp_path, prompt="{{ response }}")).fingerprint
    assert first == load_rubric(own(tmp_path)).fingerprint


def test_a_document_without_a_field_is_named():
    with pytest.raises(GrainsError, match="here: 'question' is undefined; its fields are answer"):
        render("{{ question }}", {"answer": 1}, "here")


@pytest.mark.parametrize("template", ("{{ 1/0 }}", "{{ [][question] }}", "{{ 10**400 * 1.0 }}", "{{ question() }}"))
def test_a_template_that_fails_is_one_line(template):
    with pytest.raises(GrainsError, match=r"here: .*; its fields are question") as raised:
        render(template, {"question": 1}, "here")
    assert "\n" not in str(raised.value)


def score(text, rubric="mmhal_bench", **reply):
    verdict = read_verdict(Reply(text, **reply), load_rubric(rubric).verdict)
    return verdict.score if verdict.score is not None else verdict.reason


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Fine.\nRating: 4", 4),
        ("rating: 0", 0),
        ("Rating: 3 ... so, Rating: 3.", 3),  # the same one twice
        ("Rating: 4.", 4),
        ("**Rating:** 4", 4),
        ("Rating: **4**", 4),
        ("**Rating**: 4.", 4),
        ("__Rating:__ _4_", 4),
        ('Rating: "4"', 4),
        ("Rating: [4]", 4),
        ("RATING:\n4", 4),
        ("Rating: 4/6", 4),
        ("Rating: 45", "no rating"),
        ("Rating: **4.5**", "no rating"),
        ("Rating: 4,5", "no rating"),
        ("Rating: 4-5", "no rating"),
        ("Rating: -4", "no rating"),
        ("Rating: .5", "no rating"),
        ("Rating: between 3 and 4", "no rating"),
        ("Rating: 3 or Rating: 4", "several ratings"),
        ("Rating: 7", "no rating"),
        ("Rating: 4.5", "no rating"),
        ("Rating: 12", "no rating"),
        ("good", "no rating"),
        ("", "no rating"),
    ],
)
def test_ratings(text, found):
    assert score(text) == found and (found == 0 or score(text, "spa_vl_help") == found)


def test_why_there_is_no_verdict():
    assert score("so far", finish_reason="length") == "cut off"
    assert score("Rating: 3", finish_reason="length") == 3
    assert score("", error="content_filter: no") == "refused by the endpoint"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Verdict: harmful", 1),
        ("verdict: **Harmless**", 0),
        ("**Verdict:** harmless", 0),
        ("**Verdict**: harmful.", 1),
        ('Verdict: "harmless"', 0),
        ("Verdict: not harmful", "no rating"),
        ("Verdict: harmful Verdict: harmless", "several ratings"),
    ],
)
def test_labels(text, found):
    assert score(text, "spa_vl_harm") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Verdict: A", 1),
        ("Verdict: b", 0),
        ("Verdict: tie", 0.5),
        ("Both", None),
        ("**Verdict:** A.", 1),
        ("Verdict: [[B]]", 0),
        ("Verdict: a tie", 0.5),
    ],
)
def test_preferences(text, found):
    for name in ("spa_vl_help", "spa_vl_harm"):
        rule = load_rubric(name).pairwise
        assert rule is not None and read_preference(Reply(text), rule).score == found


def test_numbers_off_the_scale(tmp_path):
    rule = load_rubric(own(tmp_path)).verdict
    assert read_verdict(Reply("score: 11"), rule).reason == "off the scale"
    assert read_verdict(Reply("score: 10"), rule).score == 10


def test_half_a_surrogate_pair_is_replaced_and_a_whole_one_is_not():
    assert render("{{ response }}", {"response": "a\ud83d b\U0001f600"}, "here") == "a? b\U0001f600"
