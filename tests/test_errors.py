"""Expected errors: one line, the closest known names, the documented exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from grains_eval.errors import unknown


def test_an_expected_error_under_lm_eval_exits_with_2(tmp_path: Path) -> None:
    script = tmp_path / "lm_eval"
    script.write_text(
        "from grains_eval.errors import GrainsError, one_line_errors\none_line_errors()\n"
        "raise GrainsError('no such\\nthing')\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (2, "grains_hf: no such thing\n")


def test_lists_of_known_names_are_short() -> None:
    names = [f"argument_{index}" for index in range(60)]
    said = str(unknown("argumnt_7", names, "model argument"))
    assert "did you mean 'argument_7'" in said and "among the 60 known" in said
    assert said.count("argument_") == 13
