"""Scores, differences and intervals of leaderboards, against their formulas written out."""

from dataclasses import replace

import numpy as np
import pytest

from grains_eval.comparison import Analysis, Question, compare
from grains_eval.comparison.leaderboard_rows import Scaled
from grains_eval.comparison.leaderboards import LEADERBOARDS, leaderboard_of
from grains_eval.comparison.logs import read_run
from grains_eval.comparison.significance import holm, mcnemar
from grains_eval.comparison.two_runs import compare_pair
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
from tests.comparison import boards
from tests.comparison.folders import write_run


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boards")
    tasks = boards.version_2(1), boards.version_2(2, 0.75)
    return tasks, [boards.write_2(folder / name, t) for name, t in zip(("baseline", "steered"), tasks, strict=True)]


def test_scores_are_the_leaderboards_own(pair):
    tasks, folders = pair
    rows = {row.task: row for row in compare(*folders, leaderboard="open_llm_v2")}
    first, second = map(boards.score_2, tasks)
    assert list(rows) == list(first)
    for name, row in rows.items():
        assert (row.baseline, row.steered) == pytest.approx((first[name], second[name])), name
        assert row.metric == "score" and row.scale == 1
        # no subtask lies below guessing, so that nothing is floored
        assert row.difference == pytest.approx(second[name] - first[name]), name
        assert row.interval[0] < row.difference < row.interval[1]


def test_right_or_wrong_documents_that_count_alike_get_the_exact_test(pair):
    tasks, folders = pair
    rows = {row.task: row for row in compare(*folders, leaderboard="open_llm_v2")}
    first, second = (np.array(t["leaderboard_mmlu_pro"].values["acc"]) for t in tasks)
    row = rows["leaderboard_mmlu_pro"]
    assert (row.test, row.guaranteed) == ("exact McNemar", True)
    assert row.p == pytest.approx(mcnemar(int((second > first).sum()), int((second < first).sum())))
    assert row.difference == pytest.approx((second.mean() - first.mean()) / 0.9)
    plain = {r.task: r for r in compare(*folders, tasks=["leaderboard_mmlu_pro"])}["leaderboard_mmlu_pro"]
    assert row.interval == pytest.approx([end / 0.9 for end in plain.interval])
    assert rows["leaderboard_bbh"].test == "betting" and rows["leaderboard_bbh"].guaranteed
    assert rows["leaderboard_ifeval"].n == 60


def test_gpqas_subsets_share_questions_which_are_its_clusters(pair):
    rows = {row.task: row for row in compare(*pair[1], leaderboard="open_llm_v2")}
    assert (rows["leaderboard_gpqa"].n, rows["leaderboard_gpqa"].clusters) == (125, 60)
    documents = sum(row.n for name, row in rows.items() if name != "leaderboard")
    assert rows["leaderboard"].n == documents
    assert rows["leaderboard"].clusters == documents - 65


def test_p_values_are_adjusted_over_benchmarks_and_mean_and_over_subtasks_apart(pair, tmp_path):
    _, folders = pair
    report = compare_runs(folders, tmp_path / "report", analysis=Analysis(leaderboard="open_llm_v2"))
    rows = [row.comparison for row in report.rows]
    assert len(rows) == 7
    assert [row.adjusted_p for row in rows] == pytest.approx(holm([row.p for row in rows]))
    subtasks = report.extra["subtasks"]
    assert len(subtasks) == 24 + 3 + 7 + 3
    assert [row["adjusted_p"] for row in subtasks] == pytest.approx(holm([row["p"] for row in subtasks]))


def test_what_subtasks_add_makes_up_their_benchmarks_difference(pair):
    report = compare_runs(pair[1], analysis=Analysis(leaderboard="open_llm_v2"))
    for row in report.rows:
        parts = [part for part in report.extra["subtasks"] if part["benchmark"] == row.comparison.task]
        if parts:
            added = sum(part["difference"] * part["share"] for part in parts)
            assert added == pytest.approx(row.comparison.difference), row.comparison.task


def test_a_subtask_that_carries_a_loss_is_named(tmp_path):
    tasks = boards.version_2(1), boards.version_2(1, object_counting=0.1)
    folders = [boards.write_2(tmp_path / name, t) for name, t in zip("ab", tasks, strict=True)]
    report = compare_runs(folders, tmp_path / "report", analysis=Analysis(leaderboard="open_llm_v2"))
    assert any(
        note.startswith("b: a loss is shown on 1 of 37 subtasks: leaderboard_bbh_object_counting (−")
        for note in report.notes
    )
    (table,) = report.tables
    assert table.title == "Subtasks that fell: b" and table.rows[0][0] == "leaderboard_bbh_object_counting"
    assert "Subtasks that fell: b" in (tmp_path / "report" / "report.html").read_text()


def test_below_guessing_the_score_is_zero_and_the_difference_is_not(tmp_path):
    """The floor of the leaderboard hides a loss; the difference is that of the scores before it."""
    shares = {"snarks": 0.3, "mmlu_pro": 0.05}
    tasks = boards.version_2(1, **shares), boards.version_2(2, 0.7, snarks=0.05, mmlu_pro=0.01)
    folders = [boards.write_2(tmp_path / name, t) for name, t in zip("ab", tasks, strict=True)]
    rows = {row.task: row for row in compare(*folders, leaderboard="open_llm_v2")}
    first, second = map(boards.score_2, tasks)
    for name, row in rows.items():
        assert (row.baseline, row.steered) == pytest.approx((first[name], second[name]))
    pro = rows["leaderboard_mmlu_pro"]
    assert (pro.baseline, pro.steered) == (0, 0) and pro.difference < 0
    raw = [boards.mean(t["leaderboard_mmlu_pro"], "acc") for t in tasks]
    assert pro.difference == pytest.approx((raw[1] - raw[0]) / 0.9)
    nothing, all_right = (boards.version_2(1, mmlu_pro=share) for share in (0, 1))
    ends = [boards.write_2(tmp_path / name, t) for name, t in zip("cd", (nothing, all_right), strict=True)]
    (whole,) = compare(*ends, leaderboard="open_llm_v2", tasks=["leaderboard_mmlu_pro"])
    assert whole.interval[0] < whole.difference <= whole.interval[1] <= 1 / 0.9 + 1e-9
    notes = compare_runs(folders, analysis=Analysis(leaderboard="open_llm_v2")).notes
    assert any("leaderboard_bbh: 1 of 24 subtasks (leaderboard_bbh_snarks) below guessing" in note for note in notes)
    assert any("leaderboard_mmlu_pro: below guessing" in note for note in notes)


def test_the_first_version_is_plain_scores_and_means_over_subjects(tmp_path):
    tasks = boards.version_1(1), boards.version_1(2)
    folders = [boards.write_1(tmp_path / name, t) for name, t in zip("ab", tasks, strict=True)]
    rows = {row.task: row for row in compare(*folders, leaderboard="open_llm_v1")}
    for index, side in enumerate(("baseline", "steered")):
        wanted = {
            "arc_challenge": boards.mean(tasks[index]["arc_challenge"], "acc_norm"),
            "hellaswag": boards.mean(tasks[index]["hellaswag"], "acc_norm"),
            "mmlu": np.mean([boards.mean(tasks[index][subject], "acc") for subject in boards.SUBJECTS]),
            "truthfulqa_mc2": boards.mean(tasks[index]["truthfulqa_mc2"], "acc"),
            "winogrande": boards.mean(tasks[index]["winogrande"], "acc"),
            "gsm8k": boards.mean(tasks[index]["gsm8k"], "exact_match"),
        }
        wanted["openllm"] = np.mean(list(wanted.values()))
        assert {name: getattr(row, side) for name, row in rows.items()} == pytest.approx(wanted)


def test_benchmarks_that_are_missing_are_said_and_no_mean_is_formed(tmp_path, pair):
    tasks = {
        name: task
        for name, task in pair[0][0].items()
        if name not in ("leaderboard_ifeval", "leaderboard_bbh_snarks") and "gpqa" not in name
    }
    folders = [boards.write_2(tmp_path / name, tasks) for name in "ab"]
    report = compare_runs(folders, analysis=Analysis(leaderboard="open_llm_v2"))
    assert [row.comparison.task for row in report.rows] == [
        "leaderboard_math_hard", "leaderboard_musr", "leaderboard_mmlu_pro",
    ]  # fmt: skip
    said = " ".join(report.notes)
    assert "leaderboard_gpqa was not evaluated" in said and "leaderboard_ifeval was not evaluated" in said
    assert "leaderboard_bbh is left out: 1 of its 24 subtasks were not evaluated (leaderboard_bbh_snarks, …)" in said
    assert "leaderboard: no mean over 3 of 6 benchmarks is formed" in said
    with pytest.raises(GrainsError, match="no benchmark of the leaderboard is whole: leaderboard_bbh is left out: 23"):
        compare(*folders, leaderboard="open_llm_v2", tasks=["leaderboard_bbh_navigate"])
    other = write_run(tmp_path / "c", {"t": next(iter(tasks.values()))})
    with pytest.raises(GrainsError, match="share no task of the leaderboard; run lm_eval with --tasks leaderboard"):
        compare(folders[0], other, leaderboard="open_llm_v2")
    with pytest.raises(GrainsError, match="unknown leaderboard 'open_llm_v3'"):
        compare(*folders, leaderboard="open_llm_v3")


def test_other_shots_and_limits_are_said(tmp_path, pair):
    tasks = {name: replace(task, shots=1) if "bbh" in name else task for name, task in pair[0][0].items()}
    folders = [boards.write_2(tmp_path / name, tasks) for name in "ab"]
    notes = compare_runs(folders, analysis=Analysis(leaderboard="open_llm_v2")).notes
    assert "leaderboard_bbh was asked with 1 examples; the leaderboard gives 3" in notes


def test_a_recipe_that_preserves_the_leaderboard_gets_verdicts_on_it(tmp_path, pair):
    steering = [{"method": "grains", "evaluation": {"tasks": ["t"], "preserve": ["leaderboard"]}, "doc_hashes": {}}]
    target = boards.data(np.random.default_rng(1), "acc", 40, 0.5, 0)
    folders = [
        boards.write_2(tmp_path / name, {**pair[0][0], "t": target}, steering=steers)
        for name, steers in (("a", None), ("b", steering))
    ]
    analysis = Analysis(leaderboard="open_llm_v2", tasks=["t", "leaderboard"])
    report = compare_runs(folders, analysis=analysis)
    assert report.rows[0].comparison.task == "t"
    assert {verdict.task for verdict in report.verdicts} == {
        "leaderboard", *(benchmark.name for benchmark in LEADERBOARDS["open_llm_v2"].benchmarks),
    }  # fmt: skip
    alone = compare_runs(
        folders, analysis=Analysis(leaderboard="open_llm_v2"), question=Question(preserve=["leaderboard"])
    )
    assert "t" not in {row.comparison.task for row in alone.rows}
    assert leaderboard_of(["t", "leaderboard"]) == "open_llm_v2" and leaderboard_of(["t"]) is None


def test_instruction_level_scores_are_compared_without_a_leaderboard_too(pair):
    tasks, folders = pair
    (row,) = compare(*folders, tasks=["leaderboard_ifeval"], metrics=["inst_level_strict_acc"])
    for side, run in zip((row.baseline, row.steered), tasks, strict=True):
        followed = run["leaderboard_ifeval"].values["inst_level_strict_acc"]
        assert side == pytest.approx(sum(map(sum, followed)) / sum(map(len, followed)))
    assert row.difference == pytest.approx(row.steered - row.baseline)
    assert (row.test, row.n, row.guaranteed) == ("betting", 60, True)


def test_lists_that_are_no_mean_of_entries_are_left_out(tmp_path, pair):
    task = pair[0][0]["leaderboard_ifeval"]
    other = replace(task, reported={"inst_level_strict_acc": 0.123})
    folders = [write_run(tmp_path / name, {"t": other}) for name in "ab"]
    rows, notes = compare_pair(*map(read_run, folders), Analysis())
    assert [row.comparison.metric for row in rows] == ["prompt_level_strict_acc"]
    assert any("'inst_level_strict_acc' is left out, it is not a mean over documents" in note for note in notes)


def test_a_scaled_procedure_is_the_procedure_of_the_scaled_difference():
    class Known:
        def tails(self, value):
            return value, 1 - value

        def interval(self, level):
            return -level, 2 * level

        def detectable(self, level, power):
            return level

    scaled = Scaled(Known(), 4.0)
    assert scaled.tails(0.4) == (0.1, 0.9)
    assert scaled.interval(0.5) == (-2.0, 4.0)
    assert scaled.detectable(0.05, 0.8) == pytest.approx(0.2)
