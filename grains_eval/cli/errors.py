"""Expected errors at the command line: one line on stderr, no traceback, a fixed exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from grains_eval.errors import USER_ERROR, GrainsError

INTERRUPTED = 130
# Packages of the extra `steer`, by the names that they are imported under.
STEERING_PACKAGES = frozenset({
    "accelerate", "captum", "datasets", "huggingface_hub", "lm_eval", "pandas", "peft", "psutil", "pyarrow",
    "rouge_score", "safetensors", "sklearn", "statsmodels", "torch", "transformers",
})  # fmt: skip


def exit_code(work: Callable[[], object], traceback: bool = False) -> int:
    """Run a command and translate what a user can fix; anything else is a bug and keeps its traceback.

    Args:
        work: The command.
        traceback: Let every error through.

    Returns:
        0 when all went well, 2 for an expected error, 130 for an interrupt.
    """
    try:
        work()
    except KeyboardInterrupt:
        if traceback:
            raise
        return _say("interrupted; the same command again goes on where this one stopped", INTERRUPTED)
    except (GrainsError, OSError) as error:
        if traceback:
            raise
        return _say(explain(error), USER_ERROR)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if traceback or package not in STEERING_PACKAGES:
            raise
        needed = f"this needs {package}, which is not installed; pip install 'grains-eval[steer]'"
        return _say(f"{needed} (the base install compares runs and needs no torch)", USER_ERROR)
    return 0


def explain(error: GrainsError | OSError) -> str:
    """Put an error into one line: what was wrong, and what to do where that is known."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{where}; free some space and run the same command again"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"grains-eval: {message}\n")
    return code
