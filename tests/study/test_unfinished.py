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
    work.mkdir()  # killed when all but the empty folder was gone
    forget(tmp_path / "vectors")
    assert not work.exists()
    work.mkdir()
    (work / "thesis.txt").touch()
    forget(tmp_path / "vectors")
    with pytest.raises(GrainsError, match="is in the way and is not an unfinished build"):
        take_up(work, {"recipe": "1"}, overwrite=True)


def _killed(folder: Path, **options: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["build", "sweep", "compare", "ablate"])
def test_a_study_is_told_that_its_folder_is_in_use_before_it_loads_anything(name: str, tmp_path: Path) -> None:
    from grains_eval.recipes import load_recipe
    from grains_eval.study.ablate import ablate
    from grains_eval.study.build import build_from_recipe
    from grains_eval.study.compare import compare_methods
    from grains_eval.study.session import OutputFolder, Session
    from grains_eval.study.sweep import SweepGrid, sweep
    from grains_eval.study.unfinished import claimed
    from grains_eval.tasks_path import task_directory

    recipe = load_recipe(task_directory() / "demo" / "text_split" / "recipe.yaml")
    session, place = Session({"pretrained": "nobody/model"}), OutputFolder(tmp_path / "out")
    studies = {
        "build": lambda: build_from_recipe(recipe, session, place),
        "sweep": lambda: sweep(recipe, session, place, SweepGrid()),
        "compare": lambda: compare_methods(recipe, session, place, ["grains"]),
        "ablate": lambda: ablate(recipe, session, place, grid=["attribution.top_k=1,2"]),
    }
    with claimed(place.path), pytest.raises(GrainsError, match="another process is working on"):
        studies[name]()
