"""What the README tells people to type is there, and its Python runs."""

import re

import pytest

from grains_eval import cli
from tests.packaging.pages import ROOT, blocks, commands

README = (ROOT / "README.md").read_text(encoding="utf-8")

COMMANDS = commands(ROOT / "README.md")


def test_first_lines_are_the_two_commands():
    first, second, *_ = COMMANDS
    assert (first, second) == (["make", "demo"], ["make", "test"])
    assert README.index("make demo") < 40


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_one_that_its_program_takes(words):
    program, *rest = words
    if program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif program == "grains-eval":
        assert cli.parser().parse_args(rest).execute is cli.NAMES[rest[0]].execute
    elif program == "lm_eval":
        from lm_eval._cli import HarnessCLI

        assert HarnessCLI()._parser.parse_args(["run", *rest]).model == "grains_hf"
    elif program == "pip":
        assert rest[0] == "install" and all(
            (ROOT / word.partition("[")[0]).exists() for word in rest if word[0] != "-" and word != "install"
        )
    else:
        assert (ROOT / program).stat().st_mode & 0o100


def test_every_command_of_the_program_is_listed():
    listed = re.findall(r"^\| `grains-eval (\w+)`", README, flags=re.MULTILINE)
    assert sorted(listed) == sorted(cli.NAMES)


def test_links_lead_somewhere():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert targets and not [target for target in targets if not (ROOT / target).exists()]


def test_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "tasks").symlink_to(ROOT / "tasks")
    monkeypatch.chdir(tmp_path)
    (source,) = blocks(ROOT / "README.md", "python")
    names = {}
    exec(compile(source, "README.md", "exec"), names)
    assert len(names["scores"].tokens) == len(names["scores"].scores)
    assert capsys.readouterr().out.splitlines()[-1].startswith("demo_text_split acc")
