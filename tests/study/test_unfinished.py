"""One process at a time builds a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grains_eval.errors import GrainsError


def test_a_second_build_into_one_folder_is_refused_at_once(tmp_path: Path) -> None:
    from grains_eval.study.unfinished import claimed

    with claimed(tmp_path / "vectors"):
        with pytest.raises(GrainsError, match="another process is working on"), claimed(tmp_path / "vectors"):
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
        assert second.stdout.startswith(f"another process is working on '{target}'; wait for it")
        assert second.stdout.count("\n") == 1
        first.kill()
        first.wait()
    with claimed(target):
        pass


def test_what_a_build_left_that_was_killed_at_its_very_beginning_or_end_is_taken_up(tmp_path: Path) -> None:
    from grains_eval.artifacts.layout import CONFIG
    from grains_eval.study.unfinished import STATE, claimed, drop, forget, take_up, work_folder

    work = work_folder(tmp_path / "vectors")
    work.mkdir()
    (work / f".{STATE}.part").write_text("{")  # killed while it wrote this
    take_up(work, {"recipe": "1"}, overwrite=False)
    assert [each.name for each in work.iterdir()] == [STATE]
    (work / "a.safetensors").touch()
    (work / "epochs").mkdir()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", _killed)
        drop(work)
    state = {"recipe": "2", "weights": "w"}
    take_up(work, state, overwrite=True)  # whatever is left is known to be ours
    config = tmp_path / "vectors" / CONFIG
    config.parent.mkdir()
    for made, is_left in ({"recipe_hash": "1", "weights": "w"}, True), ({"recipe_hash": "2", "weights": "w"}, False):
        config.write_text(json.dumps({"provenance": made}))
        forget(tmp_path / "vectors")
        assert work.exists() == is_left
    take_up(work, state, overwrite=True)  # a build of the same recipe that is to replace the artifact
    os.utime(config, ns=(0, 0))
    forget(tmp_path / "vectors")
    assert work.exists()
    os.utime(config)
    with claimed(tmp_path / "vectors"):  # its process lives
        forget(tmp_path / "vectors")
        assert work.exists()
    os.utime(work / STATE, ns=(0, 0))
    take_up(work, state, overwrite=True)
    assert (work / STATE).stat().st_mtime_ns > 0
    drop(work)
    work.mkdir()
    (work / "thesis.txt").touch()
    forget(tmp_path / "vectors")
    with pytest.raises(GrainsError, match="is in the way and is not an unfinished build"):
        take_up(work, {"recipe": "1"}, overwrite=True)


def _killed(folder: Path, **options: object) -> None:
    raise KeyboardInterrupt
