"""Expected errors: shown as one line at the command line, as an ordinary exception in Python."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import PurePath
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

USER_ERROR = 2  # exit code for what a user can fix
MOST_NAMES = 12  # of a table, in an error


class GrainsError(ValueError):
    """Something the user can fix: says what was wrong, what is allowed and what to do."""


class NotApplicable(GrainsError):
    """What was asked for has no meaning here (no context to contrast, nothing to find): a result, not a fault."""


def unknown(name: object, known: Iterable[str], what: str) -> GrainsError:
    """Build the error for a name that is not in a table, with the closest known name."""
    names = sorted(known)
    shown = told(name, 300)
    close = get_close_matches(shown, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    if len(names) > MOST_NAMES:
        likely = get_close_matches(shown, names, n=MOST_NAMES, cutoff=0)
        return GrainsError(
            f"unknown {what} '{shown}': {hint}among the {len(names)} known are {', '.join(sorted(likely))}"
        )
    return GrainsError(f"unknown {what} '{shown}': {hint}known are {', '.join(names)}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def kind_and_line(error: BaseException, most: int = 200) -> str:
    """The kind of an error and the first line of its message, cut to `most` characters."""
    message = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {message[:most]}"


def pick(table: Mapping[str, T], name: str, what: str) -> T:
    """Look a method up in its table.

    Raises:
        GrainsError: the name is not in the table; the message lists the known ones.
    """
    if name not in table:
        raise unknown(name, table, what)
    return table[name]


def told(text: object, most: int = 80) -> str:
    """Text of a file in an error: one line of at most `most` printable characters."""
    try:
        whole = str(text)
    except ValueError:  # an integer of more digits than Python writes out
        return f"a {type(text).__name__} too long to show"
    shown = "".join(letter if letter.isprintable() else " " for letter in whole[: 4 * most])
    shown = " ".join(shown.split())
    return shown if len(shown) <= most else f"{shown[:most]}…"


def under_lm_eval() -> bool:
    """Whether lm-eval's own command line runs: `lm_eval`, `lm-eval`, `python -m lm_eval` or `grains-eval run`."""
    words = PurePath(sys.argv[0]).parts if sys.argv else ()
    return words[-1:] in (("lm_eval",), ("lm-eval",)) or words[-2:] == ("lm_eval", "__main__.py")


def one_line_errors(model: str = "grains_hf", *, anywhere: bool = False) -> None:
    """Under lm-eval's own command line, let an expected error of `model` end in one line instead of a traceback.

    Args:
        model: What the line begins with.
        anywhere: Under another program's command line too.
    """
    if not (anywhere or under_lm_eval()):
        return
    inherited = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, GrainsError):
            sys.stderr.write(f"{model}: {' '.join(str(error).split())}\n")
            raise SystemExit(USER_ERROR)  # the interpreter's own code after a hook is 1
        inherited(kind, error, traceback)

    sys.excepthook = hook
