"""The command line: what a newcomer reads, and what goes wrong in one line."""

import pytest

from grains_eval import cli


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
            "the following arguments are required: --config/-C; see grains-eval build --help",
        ),
        ([], "the following arguments are required: COMMAND; see grains-eval --help"),
    ],
)
def test_a_misused_flag_is_one_line_and_a_hint(words, line, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"grains-eval: error: {line}\n"
