"""The command line: what a newcomer reads, and what goes wrong in one line."""

import errno
import sys

import pytest

from grains_eval import cli
from grains_eval.cli.command import integers, model_arguments, numbers, recipe_file
from grains_eval.cli.errors import exit_code
from grains_eval.cli.run import run_lm_eval
from grains_eval.cli.terminal import FILE_WIDTH, bars, output, rate
from grains_eval.comparison import Analysis, Question
from grains_eval.comparison.power import mcnemar_items_needed, mcnemar_power
from grains_eval.errors import GrainsError
from grains_eval.report import Supplement
from grains_eval.report.formatting import rounded
from tests.comparison.folders import TaskData, write_run


def fail(error):
    raise error


def test_help_lists_every_command_in_its_group(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for group, commands in cli.GROUPS.items():
        assert f"{group}:" in text
        assert all(f"  {command.name} " in text and command.summary in text for command in commands)


PARSED = [command for command in cli.NAMES.values() if command.add_arguments]


@pytest.mark.parametrize("command", PARSED, ids=lambda command: command.name)
def test_every_example_is_a_command_that_parses(command):
    program, *words = command.example.split()
    assert program == "grains-eval" and words[0] == command.name
    assert cli.parser().parse_args(words).execute is command.execute


@pytest.mark.parametrize("name", [command.name for command in PARSED])
def test_help_of_a_command_ends_with_its_example(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: grains-eval {name} ")
    assert text.rstrip().endswith(cli.NAMES[name].example)


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == "grains-eval 0.1.0\n"


def test_a_mistyped_command_is_answered_with_the_nearest(capsys):
    assert cli.main(["buidl"]) == 2
    assert "unknown command 'buidl': did you mean 'build'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (GrainsError("layer 9 is out of range;\n use 0 to 3"), 2, "layer 9 is out of range; use 0 to 3"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/x"),
            2,
            "the disk is full at out/x; free some",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "gone"),
            2,
            "gone: No such file or directory",
        ),
        (OSError("org/name is not a\nvalid model identifier"), 2, "org/name is not a valid model identifier"),
        (KeyboardInterrupt(), 130, "interrupted; the same command again goes on"),
    ],
)
def test_expected_errors_are_one_line(error, code, line, capsys):
    assert exit_code(lambda: fail(error)) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"grains-eval: {line}") and err.count("\n") == 1
    with pytest.raises(type(error)):
        exit_code(lambda: fail(error), traceback=True)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["build", "--config", "nowhere", "-o", "out", "-a", "pretrained=x"], "unknown recipe"),
        (["build", "--config", "recipe.yaml", "-o", "out"], "no model given; add --model_args pretrained="),
        (
            ["build", "--config", "recipe.yaml", "-o", "out", "--set", "data.exmaples=3"],
            "did you mean 'data.examples'",
        ),
        (["build", "--config", "recipe.yaml", "-o", "out", "--set", "data"], "override 'data' has no '='"),
        (["compare"], "compare takes run folders"),
        (["compare", "one"], "compare needs two run folders"),
        (["compare", "one", "two", "--config", "recipe.yaml"], "compare takes run folders"),
        (["compare", "one", "two", "--alpha", "1"], "alpha 1 is not a level of a test; give a share above 0"),
        (["compare", "one", "two", "--margin", "0"], "margin 0 is not a tolerated loss; give a share above 0"),
        (["compare", "one", "two", "--clusters", "subject"], "--clusters 'subject' is not TASK=FIELD"),
        (["compare", "one", "two", "--higher_is_better", "wer"], "'wer' is not METRIC=true|false; write"),
        (["compare", "one", "two", "--higher_is_better", "wer=low"], "'wer=low' says neither true nor false"),
        (["compare", "one", "two", "--methods", "caa"], "--methods applies to --config"),
        (["compare", "one", "two", "-a", "pretrained=x"], "--model_args applies to --config"),
        (["compare", "one", "two", "--set", "data.examples=3"], "--set applies to --config"),
        (["compare", "--config", "recipe.yaml", "--tasks", "a"], "evaluation.tasks: --set 'evaluation.tasks=[A,B]'"),
        (["compare", "--config", "recipe.yaml", "--targets", "a"], "evaluation.tasks: --set 'evaluation.tasks=[A,B]'"),
        (["compare", "--config", "recipe.yaml", "--preserve", "a"], "evaluation.preserve: --set"),
        (["compare", "--config", "recipe.yaml", "--margin", "0"], "evaluation.margin: --set evaluation.margin=0.02"),
        (["compare", "--config", "recipe.yaml", "--groups", "sampled"], "--set evaluation.groups=sampled"),
        (["compare", "--config", "recipe.yaml", "--metrics", "acc"], "--set evaluation.metrics.TASK=A"),
        (
            ["compare", "--config", "recipe.yaml", "-a", "pretrained=x", "--alpha", "1"],
            "alpha 1 is not a level of a test",
        ),
        (["compare", "--config", "recipe.yaml", "--clusters", "a=b"], "metadata.cluster_key"),
        (["power"], "power takes a pilot's folder, or --discordant"),
        (["power", "--sd", "1", "--discordant", "0.1", "--n", "9"], "power takes a pilot's folder, or --discordant"),
        (["power", "--sd", "1"], "nothing is asked; give --difference"),
        (["power", "--discordant", "0.1", "--difference", "3"], "--difference 3 is more than a share can differ"),
        (["power", "--sd", "0", "--n", "9"], "--sd 0 asks for nothing; give a number above 0"),
        (["power", "--discordant", "1.5", "--n", "9"], "--discordant 1.5 is not a share"),
        (["power", "--discordant", "0.1", "--n", "9", "--alpha", "0"], "--alpha 0 is not a share"),
        (["power", "--sd", "1", "--n", "9", "--power", "0.01"], "--power 0.01 is reached by chance"),
        (["power", "--discordant", "0.02", "--difference", "0.03"], "only 0.02 of them do; give a smaller"),
        (["power", "--discordant", "0.1", "--design_effect", "2", "--n", "9"], "--design_effect goes with --sd"),
        (["power", "--sd", "1", "--n", "9", "--tasks", "t"], "--tasks and --metrics choose among a pilot's rows"),
        (["power", "gone", "--sd", "1"], "--sd is what a pilot tells"),
        (["power", "gone"], "'gone' holds no report.json; give a folder that compare wrote"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: x\ndata: {task: arc_easy}\n")
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert line in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["compare", "one", "two", "--metrcs", "acc"],
            "unrecognized arguments: --metrcs; did you mean --metrics?; see grains-eval compare --help",
        ),
        (
            ["compare", "one", "two", "--alpha", "x"],
            "argument --alpha: invalid float value: 'x'; see grains-eval compare --help",
        ),
        (
            ["build"],
            "the following arguments are required: --config/-C, --output_path/-o; see grains-eval build --help",
        ),
        ([], "the following arguments are required: COMMAND; see grains-eval --help"),
    ],
)
def test_a_misused_flag_is_one_line_and_a_hint(words, line, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"grains-eval: error: {line}\n"


def test_compare_hands_the_report_s_flags_to_a_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: x\ndata: {task: arc_easy}\n")
    seen = []
    monkeypatch.setattr("grains_eval.study.compare.compare_methods", lambda *inputs: seen.extend(inputs))
    words = "compare --config recipe.yaml -a pretrained=x --alpha 0.1 --subtasks --title T"
    assert cli.main(words.split()) == 0
    assert seen[-2:] == [Analysis(alpha=0.1, subtasks=True), Supplement(title="T")]


def test_compare_hands_its_flags_to_the_comparison(monkeypatch):
    seen = {}
    monkeypatch.setattr("grains_eval.report.compare_runs", lambda *places, **choices: seen.update(choices))
    words = "compare a b --alpha 0.1 --margin 0.02 --tasks t,u --metrics acc --preserve u --subtasks --title T"
    words += " --higher_is_better wer=false,up=True --targets t"
    assert cli.main([*words.split(), "--clusters", "t=x,u=y.z", "--clusters", "v=w", "--controls", "x"]) == 0
    assert seen == {
        "analysis": Analysis(
            alpha=0.1,
            tasks=["t", "u"],
            metrics=["acc"],
            clusters={"t": "x", "u": "y.z", "v": "w"},
            higher_is_better={"wer": False, "up": True},
            subtasks=True,
            groups="fixed",
        ),
        "question": Question(targets=["t"], preserve=["u"], margin=0.02, controls=["x"]),
        "supplement": Supplement(title="T"),
        "overwrite": False,
    }


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("--discordant 0.1 --difference 0.03", ["a difference of 0.03 needs 920 items for power 0.8"]),
        (
            "--sd 0.4 --difference 0.03 --n 500",
            [
                "a difference of 0.03 needs 1,594 items for power 0.8",
                "500 items find a difference of 0.03 with power 0.31",
                "500 items find a difference of 0.0545 with power 0.8",
            ],
        ),
        ("--discordant 0.001 --n 50", ["50 items find no difference with power 0.8"]),
        (
            "--sd 0.4 --design_effect 2.5 --difference 0.03 --power 0.9",
            ["a difference of 0.03 needs 4,672 items for power 0.9"],
        ),
    ],
)
def test_power_from_numbers(words, lines, capsys):
    assert cli.main(["power", *words.split()]) == 0
    *said, basis = capsys.readouterr().out.splitlines()
    assert said == lines and "two-sided, level 0.05, before any adjustment" in basis


def test_power_from_a_pilot(tmp_path, capsys):
    for name, right in (("baseline", 40), ("steered", 52)):
        write_run(tmp_path / name, {"t": TaskData({"acc": [1.0] * right + [0.0] * (100 - right)})})
    places = [str(tmp_path / name) for name in ("baseline", "steered")]
    assert cli.main(["power", *places, "--difference", "0.06", "--n", "300"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "steered" in line]
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells[:6] == ["t", "acc", "steered", "100", "+12.0", "6.0"]
    needed = mcnemar_items_needed(0.09, 0.03)
    assert cells[6:8] == [rounded(needed), f"{mcnemar_power(0.09, 0.03, 300):.2f}"]
    assert cli.main(["power", *places, "--metrics", "f1"]) == 2
    assert "unknown metric 'f1': known are acc" in capsys.readouterr().err


def test_a_recipe_is_a_file_or_the_name_of_a_bundled_behaviour(tmp_path, monkeypatch):
    own = tmp_path / "recipe.yaml"
    own.write_text("")
    bundled = tmp_path / "tasks" / "honest" / "recipe.yaml"
    bundled.parent.mkdir(parents=True)
    bundled.write_text("")
    monkeypatch.setattr("grains_eval.cli.command.task_directory", lambda: tmp_path / "tasks")
    assert recipe_file(str(own)) == own
    assert recipe_file("honest") == recipe_file("tasks/honest/recipe.yaml") == bundled
    other = bundled.with_name("recipe_strict.yaml")
    other.write_text("")
    assert recipe_file("honest/recipe_strict") == recipe_file("tasks/honest/recipe_strict.yaml") == other
    with pytest.raises(GrainsError, match="did you mean 'honest'"):
        recipe_file("honets")


def test_flags_win_over_the_recipes_model_arguments():
    words = [
        "build",
        "--config",
        "c",
        "-o",
        "o",
        "-a",
        "pretrained=new,dtype=float32",
        "revision=v2",
        "--device",
        "cpu",
    ]
    merged = model_arguments(cli.parser().parse_args(words), {"pretrained": "old", "device": "cuda", "trust": True})
    assert merged == {
        "pretrained": "new",
        "dtype": "float32",
        "revision": "v2",
        "device": "cpu",
        "trust": True,
    }


def test_lists():
    assert integers("8, 16,") == [8, 16]
    assert numbers("0.5,1") == [0.5, 1.0]


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["--tasks", "a"], ["--model", "grains_hf", "--tasks", "a"]),
        (["--model", "hf", "--tasks", "a"], ["--model", "hf", "--tasks", "a"]),
        (["--model=hf"], ["--model=hf"]),
        (["-M", "hf"], ["-M", "hf"]),
        (["--config", "run.yaml"], ["--config", "run.yaml"]),
        (["--model_args", "pretrained=x"], ["--model", "grains_hf", "--model_args", "pretrained=x"]),
    ],
)
def test_run_hands_everything_to_lm_eval(words, seen, monkeypatch):
    from lm_eval.api.registry import model_registry

    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: None)
    run_lm_eval(words)
    assert sys.argv == ["lm-eval", "run", *seen]
    assert "grains_hf" in model_registry


def test_progress_gives_every_item_and_says_so_in_a_log(capsys):
    assert list(bars(["a", "b", "c"], "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err.startswith("reading: 3/3 in ")


def test_tables_in_a_file_are_wide_enough(capsys):
    output().print("x" * FILE_WIDTH)
    assert capsys.readouterr().out == "x" * FILE_WIDTH + "\n"


def test_rate_reads_well():
    assert (rate(4.0), rate(0.25), rate(0.0)) == ("4.0/s", "4.0 s each", "")
