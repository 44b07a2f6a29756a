"""Pairs of responses in both orders: preferences that `compare` reads, and what the order did."""

from __future__ import annotations

import json

import pytest

from grains_eval import cli
from grains_eval.comparison import compare
from grains_eval.comparison.logs import read_run
from grains_eval.errors import GrainsError
from grains_eval.judging.endpoint import Endpoint
from grains_eval.judging.pairwise import judge_pair, position_bias
from grains_eval.judging.pointwise import Request
from grains_eval.judging.verdicts import Verdict
from tests.judging.runs import COUNT, write
from tests.judging.server import serving

pytest.importorskip("openai")


PLAIN = Request()


def answers_of(text):
    first, _, second = text.partition("Answer A: ")[2].partition("Answer B: ")
    return "is right" in first, "is right" in second.partition("Give one")[0]


def fair(text):
    first, second = answers_of(text)
    return f"Verdict: {'tie' if first == second else 'A' if first else 'B'}"


def biased(text):
    """Takes the first answer unless only the second one is right."""
    first, second = answers_of(text)
    return f"Verdict: {'B' if second and not first else 'A'}"


def documents():
    return [{"question": f"q {number}", "class1": f"c{number % 4}", "question_type": "x"} for number in range(COUNT)]


@pytest.fixture
def runs(tmp_path):
    """The second run is right on items 4 to 11 where the first one is wrong."""
    made = [
        write(tmp_path / name, good, task="spa_vl_help", docs=documents())
        for name, good in (("base", 4), ("other", 12))
    ]
    return tuple(read_run(folder) for folder in made)


def judge(runs, server, folder, request=PLAIN, **options):
    return judge_pair(runs, Endpoint(server.url, "m", concurrency=4, retries=1, **options), request, folder)[0]


def test_preferences_and_no_bias(runs, tmp_path):
    with serving(fair) as server:
        found = judge(runs, server, tmp_path / "out")
        assert len(server.asked) == 2 * 8 + 8  # two equal answers are the same in either order
    assert (found.wins, found.losses, found.count) == (8, 0, COUNT)
    assert found.preferred == pytest.approx((8 * 1 + 8 * 0.5) / COUNT)
    assert found.bias.by_order == 0 and found.bias.p == 1 and not found.reasons
    row = next(row for row in compare(*found.folders) if row.metric == "judge_preferred")
    assert row.task == "spa_vl_help_preferred" and row.difference == pytest.approx(0.5)  # 0.75 against 0.25
    assert row.helped == 8 and row.harmed == 0


def test_a_judge_that_goes_by_the_place_is_found_out(runs, tmp_path):
    with serving(biased) as server:
        found = judge(runs, server, tmp_path / "out")
    # 8 items are equal, and there the first answer wins in both orders: undecided, not won
    assert (found.wins, found.losses) == (8, 0) and found.preferred == pytest.approx(0.75)
    assert (found.bias.items, found.bias.by_order, found.bias.first) == (COUNT, 8, 8)
    assert found.bias.p == pytest.approx(2 * 0.5**8)


def test_bias_is_counted_over_items_with_both_verdicts():
    a, b, tie, none = Verdict(1.0), Verdict(0.0), Verdict(0.5), Verdict(None, "no rating")
    bias = position_bias([(a, a), (b, b), (a, b), (tie, a), (none, a), (b, none)])
    assert (bias.items, bias.by_order, bias.first, bias.p) == (4, 2, 1, 1.0)


def test_missing_verdicts_are_in_no_mean(runs, tmp_path):
    def quiet(text):
        return "Well." if "q 5\n" in text and "item 5 is wrong" in text.partition("Answer B")[0] else fair(text)

    with serving(quiet) as server:
        found = judge(runs, server, tmp_path / "out")
    assert found.reasons == {"no rating": 1} and found.wins == 7 and found.bias.items == COUNT - 1
    assert found.preferred == pytest.approx((7 + 8 * 0.5) / 15)


def test_interrupted_and_resumed(runs, tmp_path):
    with serving(fair) as server:
        judge(runs, server, tmp_path / "whole")
    with serving(fair, faults=[""] * 5 + ["gone"]) as server, pytest.raises(GrainsError, match="cannot be reached"):
        judge(runs, server, tmp_path / "parts")
    with serving(fair) as server:
        judge(runs, server, tmp_path / "parts")
    first, second = (
        {file.relative_to(place): file.read_bytes() for file in place.rglob("*") if file.is_file()}
        for place in (tmp_path / "whole", tmp_path / "parts")
    )
    assert first == second and len(first) == 6  # two a run, the replies and their lock


def test_the_command(runs, tmp_path, capsys):
    folders = [str(tmp_path / name) for name in ("base", "other")]
    with serving(biased) as server:
        words = ["--base_url", server.url, "--model", "m", "--pairwise", "-o", str(tmp_path / "out")]
        assert cli.main(["judge", *folders, *words]) == 0
        said = capsys.readouterr().out
        assert "other against base: 8 won, 0 lost, 8 undecided; preferred 0.750" in said
        assert "position: the order alone decided 8 of 16 items, 8 times for the first answer (p 0.0078" in said
        assert "grains-eval compare" in said
        assert cli.main(["judge", folders[0], *words]) == 2
        assert "judge takes one run folder, or two with --pairwise" in capsys.readouterr().err


def test_rubrics_without_pairs_and_runs_that_do_not_fit(runs, tmp_path):
    mmhal = [write(tmp_path / name) for name in ("m1", "m2")]
    with serving(fair) as server:
        with pytest.raises(GrainsError, match="has no section 'pairwise'"):
            judge(tuple(map(read_run, mmhal)), server, tmp_path / "out")
        with pytest.raises(GrainsError, match="is in run 'base' but not in 'm1'"):
            judge((runs[0], read_run(mmhal[0])), server, tmp_path / "out")
        assert not server.asked


@pytest.mark.parametrize("name", ("../../evil", "..", "a\\b", "ABSOLUTE"))
def test_a_results_file_does_not_decide_where_preferences_go(name, runs, tmp_path):
    name = str(tmp_path / "evil") if name == "ABSOLUTE" else name
    file = next((tmp_path / "other").rglob("results_*"))
    held = json.loads(file.read_text())
    file.write_text(json.dumps({**held, "model_name_sanitized": name}))
    before = set(tmp_path.rglob("*"))
    with serving(fair) as server:
        with pytest.raises(GrainsError, match=r"model_name_sanitized .* cannot name a file"):
            judge((runs[0], read_run(file)), server, tmp_path / "out" / "x")
        with pytest.raises(GrainsError, match="cannot name a file"):
            judge(runs, server, tmp_path / "out", Request(name="../x"))
        assert not server.asked
    assert set(tmp_path.rglob("*")) == before


def test_answers_meet_by_document_and_not_by_number(runs, tmp_path):
    with serving(fair) as server:
        expected = judge(runs, server, tmp_path / "out")
        file = next((tmp_path / "other").rglob("samples_*"))
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [{**row, "doc_id": COUNT - 1 - row["doc_id"]} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = judge((runs[0], read_run(tmp_path / "other")), server, tmp_path / "again")
    assert (found.wins, found.losses, found.preferred) == (expected.wins, expected.losses, expected.preferred)


def test_preferences_against_two_runs_are_two_scores(runs, tmp_path):
    third = read_run(write(tmp_path / "third", 0, task="spa_vl_help", docs=documents()))
    out = tmp_path / "out"
    with serving(fair) as server:
        first = judge(runs, server, out)
        held = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
        second = judge((runs[0], third), server, out)
    assert first.folders == (out / "base_and_other" / "base", out / "base_and_other" / "other")
    assert second.folders == (out / "base_and_third" / "base", out / "base_and_third" / "third")
    for file in first.folders:
        assert all(each.read_bytes() == held[each] for each in file.rglob("*") if each.is_file())
    assert compare(*first.folders) and compare(*second.folders)
    with pytest.raises(GrainsError, match="judge differs"):
        compare(second.folders[0], first.folders[1])


def test_runs_of_one_name_do_not_replace_each_other(runs, tmp_path):
    third = read_run(write(tmp_path / "elsewhere" / "other", 0, task="spa_vl_help", docs=documents()))
    with serving(fair) as server:
        judge(runs, server, tmp_path / "out")
        with pytest.raises(GrainsError, match="has other scores of 'spa_vl_help_preferred'"):
            judge((runs[0], third), server, tmp_path / "out")
        found = judge((runs[0], third), server, tmp_path / "out", Request(overwrite=True))
    assert compare(*found.folders)
