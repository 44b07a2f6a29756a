"""JSON and ZIP files of tools: names that stay in a folder, numbers and bytes that are none."""

from __future__ import annotations

import math
import shutil
import zipfile
from pathlib import Path

import pytest

from grains_eval.comparison.logs import read_run
from grains_eval.comparison.logs.files import file_in, json_lines, json_object, zipped_json
from grains_eval.errors import GrainsError
from tests.comparison.folders import STAMP, TaskData, write_run
from tests.comparison.logs.samples import INSPECT, LMMS


@pytest.mark.parametrize("name", ["/../../secret", "a/b", "..\\secret", "\0"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(GrainsError, match=r"is a path where .* should hold a file"):
        file_in(tmp_path, f"samples_{name}.jsonl")


def test_a_name_finds_a_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a..b").write_text("")
    (tmp_path / "folder").mkdir()
    assert file_in(tmp_path, "a..b") == tmp_path / "a..b"
    assert [file_in(tmp_path, name) for name in ("folder", "nothing", "x" * 5000, "\ud800")] == [None] * 4


@pytest.mark.parametrize(
    "content", [b'{"a": 1}\n\xff\xfe\n', b'{"a": 1}\n{"a": "\xe9"}\n', b'{"a": 1}\n' + b"[" * 10**5]
)
def test_lines_that_are_no_text_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(GrainsError, match="line 2 is not JSON"):
        list(json_lines(tmp_path / "rows.jsonl"))


def test_integers_beyond_a_float_are_infinite(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for digits in (400, 5000):  # Python refuses to parse more than 4300
        file.write_text(f'{{"a": {10**299}, "b": 1{"0" * digits}, "c": -1{"0" * digits}}}')
        assert list(json_object(file, "numbers").values()) == [float(10**299), math.inf, -math.inf]
        (row,) = json_lines(file)
        assert row == json_object(file, "numbers")


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "log.eval"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("header.json", "{}")
    content = bytearray(file.read_bytes())
    for record, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):  # bit 0 of the flags
        content[content.index(record) + offset] |= 1
    file.write_bytes(content)
    with pytest.raises(GrainsError, match=r"is damaged or no log: .*encrypted"):
        list(zipped_json(file, lambda name: True))


def test_folders_named_like_files_are_passed_over(tmp_path: Path) -> None:
    write_run(tmp_path / "lm_eval", {"t": TaskData({"acc": [0.0, 1.0]})})
    shutil.copytree(LMMS / "steered", tmp_path / "lmms")
    shutil.copytree(INSPECT / "steered", tmp_path / "inspect")
    for tool in ("lm_eval", "lmms", "inspect"):
        before = read_run(tmp_path / tool).files
        for name in ("x.json", "x.eval", f"results_{STAMP[:-1]}9.json", "20991130_183353_results.json"):
            (tmp_path / tool / name).mkdir()
        assert read_run(tmp_path / tool).files == before
