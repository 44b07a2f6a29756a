"""`grains-eval compare`: what its flags become."""

from grains_eval import cli
from grains_eval.comparison import Analysis, Question
from grains_eval.report import Supplement


def test_compare_hands_the_report_s_flags_to_a_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: x\ndata: {task: arc_easy}\n")
    seen = []
    monkeypatch.setattr("grains_eval.study.compare.compare_methods", lambda *inputs: seen.extend(inputs))
    words = "compare --config recipe.yaml -a pretrained=x --alpha 0.1 --subtasks --all_metrics --title T"
    assert cli.main(words.split()) == 0
    assert seen[-2:] == [Analysis(alpha=0.1, subtasks=True, all_metrics=True), Supplement(title="T")]


def test_compare_hands_its_flags_to_the_comparison(monkeypatch):
    seen = {}
    monkeypatch.setattr("grains_eval.report.compare_runs", lambda *places, **choices: seen.update(choices))
    words = "compare a b --alpha 0.1 --margin 0.02 --tasks t,u --metrics acc --preserve u --subtasks --all_metrics"
    words += " --title T --higher_is_better wer=false,up=True --targets t"
    assert cli.main([*words.split(), "--clusters", "t=x,u=y.z", "--clusters", "v=w", "--controls", "x"]) == 0
    assert seen == {
        "analysis": Analysis(
            alpha=0.1,
            tasks=["t", "u"],
            metrics=["acc"],
            clusters={"t": "x", "u": "y.z", "v": "w"},
            higher_is_better={"wer": False, "up": True},
            subtasks=True,
            all_metrics=True,
            groups="fixed",
        ),
        "question": Question(targets=["t"], preserve=["u"], margin=0.02, controls=["x"]),
        "supplement": Supplement(title="T"),
        "overwrite": False,
    }
