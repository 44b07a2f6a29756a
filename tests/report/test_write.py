"""A report is four files or none."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from pathlib import Path

import pytest

from grains_eval.cli.errors import exit_code
from grains_eval.errors import GrainsError
from grains_eval.report.data import ReportData
from grains_eval.report.write import FILES, to_csv, to_json, write


def titled(title):
    return ReportData(title, "", "2026-01-01", 0.05, 0.01, (), ())


def disk_full_at(patch, name):
    """Half of any file of that name is written, then the disk is full."""
    whole = Path.write_text

    def half(self, text, *arguments, **keywords):
        if name not in self.name:
            return whole(self, text, *arguments, **keywords)
        whole(self, text[: len(text) // 2], *arguments, **keywords)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    patch.setattr(Path, "write_text", half)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("before", [False, True], ids=["new", "replaced"])
def test_a_full_disk_leaves_no_part_of_a_report(name, before, tmp_path, monkeypatch, capsys):
    report = titled("after")
    old = {}
    if before:
        write(titled("before"), tmp_path)
        old = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert set(old) == set(FILES)
    with monkeypatch.context() as patch:
        disk_full_at(patch, name)
        assert exit_code(lambda: write(report, tmp_path, overwrite=before)) == 2
    error = capsys.readouterr().err
    assert "the disk is full" in error and error.count("\n") == 1
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == old
    write(report, tmp_path, overwrite=before)
    assert "after" in (tmp_path / "report.md").read_text()


def test_files_are_written_and_not_overwritten(report: ReportData, tmp_path: Path) -> None:
    page = write(report, tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "report.md", "report.json", "comparisons.csv"}
    before = page.read_text()
    with pytest.raises(GrainsError, match="pass --overwrite"):
        write(report, tmp_path / "out")
    assert write(report, tmp_path / "out", overwrite=True).read_text() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(GrainsError, match="is a file"):
        write(report, tmp_path / "file")


def test_json_and_csv_hold_the_numbers(report: ReportData) -> None:
    content = json.loads(to_json(report))
    assert [row["difference"] for row in content["comparisons"]] == [r.comparison.difference for r in report.rows]
    assert content["failures"] == {"nl_iti": "the probe ran out of memory <here>"}
    assert content["runs"][0]["role"] == "baseline"
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert len(rows) == len(report.rows) + 1
    assert float(rows[0]["difference"]) == report.rows[0].comparison.difference
    assert [float(x) for x in rows[0]["interval"].split()] == list(report.rows[0].comparison.interval)
    assert rows[-1]["method"] == "nl_iti" and "memory" in rows[-1]["failed"]
