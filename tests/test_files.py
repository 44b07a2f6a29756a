"""Files and folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from grains_eval.files import whole_file, whole_folder, write_file, write_together


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
