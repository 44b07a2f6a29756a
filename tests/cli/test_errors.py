"""Errors at the command line: one line for what a user can mend, a traceback for bugs."""

import errno

import pytest

from grains_eval.cli.errors import exit_code
from grains_eval.errors import GrainsError


def fail(error):
    raise error


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
