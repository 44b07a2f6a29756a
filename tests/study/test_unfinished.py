"""One process at a time builds a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from grains_eval.errors import GrainsError


def test_a_second_build_into_one_folder_is_refused_at_once(tmp_path: Path) -> None:
    from grains_eval.study.unfinished import claimed

    with claimed(tmp_path / "vectors"):
        with pytest.raises(GrainsError, match="another process is building"), claimed(tmp_path / "vectors"):
            pass
        with claimed(tmp_path / "others"):
            pass
    with claimed(tmp_path / "vectors"):
        pass
    assert not list(tmp_path.iterdir())


HOLD = """
import sys
from pathlib import Path
from grains_eval.errors import GrainsError
from grains_eval.study.unfinished import claimed
try:
    with claimed(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.readline()
except GrainsError as error:
    print(error, flush=True)
"""


def test_of_two_processes_the_second_is_told_at_once_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    from grains_eval.study.unfinished import claimed

    target = tmp_path / "vectors"
    command = [sys.executable, "-c", HOLD, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdin is not None and first.stdout is not None
        assert first.stdout.readline() == "held\n"
        second = subprocess.run(command, input="\n", capture_output=True, text=True, timeout=60, check=True)
        assert second.stdout.startswith(f"another process is building '{target}'; wait for it")
        assert second.stdout.count("\n") == 1
        first.kill()
        first.wait()
    with claimed(target):
        pass
