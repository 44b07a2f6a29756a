"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from grains_eval import files
from grains_eval.errors import GrainsError
from grains_eval.files import finished, whole_file, whole_folder, write_file, write_together, written_together


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_file_is_replaced_by_text_or_bytes(tmp_path):
    write_file(tmp_path / "new" / "a", "é")
    assert contents(tmp_path) == {"new/a": "é".encode()}
    write_file(tmp_path / "new" / "a", b"\x00")
    assert contents(tmp_path) == {"new/a": b"\x00"}


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_file(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a") as part:
        part.write_text("ne")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"a": b"old"}


def test_files_that_belong_together_are_all_written_or_none(tmp_path, monkeypatch):
    write_together(tmp_path, {"a": "old", "b": "old"})
    write = Path.write_text

    def full(self, text, **options):
        if "b" in self.name:
            raise OSError(28, "No space left on device")
        return write(self, text, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            write_together(tmp_path, {"a": "new", "b": "new"})
    assert contents(tmp_path) == {"a": b"old", "b": b"old"}
    write_together(tmp_path, {"a": "new", "b": "new"})
    assert contents(tmp_path) == {"a": b"new", "b": b"new"}


@pytest.mark.parametrize("before", [False, True], ids=["new", "replaced"])
def test_a_folder_takes_its_place_when_it_is_whole(before, tmp_path):
    folder = tmp_path / "f"
    if before:
        write_file(folder / "old", "1")
    old = contents(tmp_path)
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as work:
        write_file(work / "new", "2")
        raise KeyboardInterrupt
    assert contents(tmp_path) == old
    with whole_folder(folder) as work:
        write_file(work / "new", "2")
        assert contents(folder) == ({"old": b"1"} if before else {})
    assert contents(tmp_path) == {"f/new": b"2"}
    assert [each.name for each in tmp_path.iterdir()] == ["f"]


def test_a_folder_that_cannot_take_its_place_gives_it_back(tmp_path, monkeypatch):
    write_file(tmp_path / "f" / "old", "1")
    rename = Path.rename

    def refuse(self, target):
        if target == tmp_path / "f" and not self.name.endswith("-old"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"), whole_folder(tmp_path / "f") as work:
        write_file(work / "new", "2")
    assert contents(tmp_path) == {"f/old": b"1"}


HOLD = """
import os, sys
from pathlib import Path
from grains_eval.errors import GrainsError
from grains_eval.files import whole_file, whole_folder
try:
    with (whole_file if sys.argv[1] == "file" else whole_folder)(Path(sys.argv[2])) as part:
        (part if sys.argv[1] == "file" else part / "inner").write_text("first")
        print("held", flush=True)
        sys.stdin.readline()
except GrainsError as error:
    print(error, flush=True)
"""


@contextmanager
def writing(kind, target):
    """Another process in the middle of writing a file or folder."""
    command = [sys.executable, "-c", HOLD, kind, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_of_two_processes_that_write_a_file_the_second_is_told_at_once(tmp_path):
    with writing("file", tmp_path / "a"):
        with pytest.raises(GrainsError, match=r"another process is writing '.*a'; wait for it to end"):
            write_file(tmp_path / "a", "second")
        write_file(tmp_path / "b", "second")
    assert contents(tmp_path) == {"a": b"first", "b": b"second"}


def test_what_a_killed_process_left_of_a_file_is_no_part_of_the_next_one(tmp_path):
    with writing("file", tmp_path / "a") as process:
        process.kill()
    assert list(contents(tmp_path)) == [".a.part"]
    with whole_file(tmp_path / "a") as part:
        assert part.read_bytes() == b""
        part.write_text("x")
    assert contents(tmp_path) == {"a": b"x"}


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders")
def test_what_a_killed_process_left_of_a_folder_is_cleared_away_and_what_a_live_one_has_is_not(tmp_path):
    with writing("folder", tmp_path / "f") as process:
        process.kill()
    assert [Path(name).name for name in contents(tmp_path)] == ["inner"]
    with writing("folder", tmp_path / "f"):
        (live,) = [folder for folder in tmp_path.iterdir()]
        with whole_folder(tmp_path / "f") as work:
            write_file(work / "new", "2")
            assert contents(live) == {"inner": b"first"}
        assert contents(tmp_path / "f") == {"new": b"2"}
        with whole_folder(tmp_path / "f.other") as work:
            pass
    assert sorted(contents(tmp_path)) == ["f/inner"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders")
@pytest.mark.parametrize("is_placed", [False, True], ids=["between", "after"])
def test_a_folder_that_a_killed_process_had_moved_away_is_put_back(is_placed, tmp_path):
    """It dies between the two renames, or after the second one."""
    write_file(tmp_path / ".f-0123abcd-old" / "old", "1")
    if is_placed:
        write_file(tmp_path / "f" / "new", "2")
    else:
        write_file(tmp_path / ".f-0123abcd" / "new", "2")
    write_file(tmp_path / ".f-notours" / "x", "3")
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "f"):
        raise KeyboardInterrupt
    expected = {"f/new": b"2"} if is_placed else {"f/old": b"1"}
    assert contents(tmp_path) == {**expected, ".f-notours/x": b"3"}


def test_files_that_were_being_put_in_place_are_not_finished(tmp_path):
    names = ("a", "b")
    assert finished(tmp_path, names) == []
    write_file(tmp_path / "b", "1")
    assert finished(tmp_path, names) == ["b"]
    (tmp_path / ".a.part").touch()  # killed between the renames
    assert finished(tmp_path, names) == []
    write_file(tmp_path / "a", "1")
    (tmp_path / ".a.part").touch()  # killed before it replaced either
    assert finished(tmp_path, names) == ["a", "b"]


def test_files_take_their_place_after_all_are_written(tmp_path):
    with written_together(tmp_path, {"a": "1", "b": b"2"}):
        assert contents(tmp_path) == {".a.part": b"1", ".b.part": b"2"}
    assert contents(tmp_path) == {"a": b"1", "b": b"2"}


def test_modes_are_those_of_any_new_file(tmp_path):
    mask = os.umask(0o027)
    try:
        write_file(tmp_path / "a", "1")
    finally:
        os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_where_there_are_no_locks_a_living_writer_keeps_its_work(tmp_path, monkeypatch):
    import fcntl

    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with whole_folder(tmp_path / "f") as first:
        (first / "a").touch()
        with whole_folder(tmp_path / "f") as second:
            (second / "b").touch()
        assert (first / "a").exists()
    assert contents(tmp_path) == {"f/a": b""}


def test_a_tensor_file_is_one_writers_alone_while_it_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    from grains_eval.artifacts.save import save_tensors

    with whole_file(tmp_path / "t.safetensors") as part:
        save_tensors({"x": torch.ones(2)}, part, ("note", "1"))
        with pytest.raises(GrainsError, match="another process is writing"), whole_file(tmp_path / "t.safetensors"):
            pass


def test_a_lock_on_a_file_that_another_process_has_moved_into_place_is_none(tmp_path, monkeypatch):
    real, moved = files.try_lock, []

    def late(handle: int, **options: bool) -> bool:
        if not moved:  # its writer ends between our opening the file and locking it
            moved.append(files.part_of(tmp_path / "a").replace(tmp_path / "a"))
        return real(handle, **options)

    monkeypatch.setattr(files, "try_lock", late)
    with whole_file(tmp_path / "a") as part:
        part.write_text("2")
        with pytest.raises(GrainsError, match="another process is writing"), whole_file(tmp_path / "a"):
            pass
    assert contents(tmp_path) == {"a": b"2"}


def test_a_folder_in_the_place_of_one_file_leaves_all_as_they_were(tmp_path):
    write_file(tmp_path / "a", "1")
    (tmp_path / "b").mkdir()
    with pytest.raises(GrainsError, match=r"b' is a folder, in the place of a file"):
        write_together(tmp_path, {"a": "2", "b": "2"})
    assert contents(tmp_path) == {"a": b"1"}
