"""Reading logged samples: what is missing, cut off or damaged is one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grains_eval.comparison import compare
from grains_eval.comparison.logs import read_run
from grains_eval.errors import GrainsError
from tests.comparison.folders import STAMP, TaskData, write_run

BASE = TaskData({"acc": [0.0, 1.0, 0.0, 1.0, 1.0]})


OTHER = TaskData({"acc": [1.0, 1.0, 0.0, 0.0, 1.0]})


def test_missing_and_incomplete_samples(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE})
    write_run(tmp_path / "b", {"t": OTHER})
    samples = tmp_path / "b" / "org__model" / f"samples_t_{STAMP}.jsonl"
    lines = samples.read_text().splitlines()
    samples.write_text("\n".join(lines[:3]) + "\n")
    with pytest.raises(GrainsError, match="3 of 5 samples"):
        compare(tmp_path / "a", tmp_path / "b")
    samples.write_text("\n".join([*lines[:4], lines[4][:40]]))
    with pytest.raises(GrainsError, match="line 5 is not JSON"):
        compare(tmp_path / "a", tmp_path / "b")
    samples.write_text("\n".join(json.dumps({"doc_id": 1, "metrics": []}) for _ in lines))
    with pytest.raises(GrainsError, match="lacks 'doc_hash'"):
        compare(tmp_path / "a", tmp_path / "b")
    samples.write_text("")
    with pytest.raises(GrainsError, match="is empty"):
        compare(tmp_path / "a", tmp_path / "b")
    samples.unlink()
    with pytest.raises(GrainsError, match="run lm_eval again with --log_samples"):
        compare(tmp_path / "a", tmp_path / "b")


def test_a_task_whose_name_is_a_path_opens_no_file_elsewhere(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE})
    write_run(tmp_path / "b", {"t": OTHER})
    home = tmp_path / "b" / "org__model"
    (home / "samples_x").mkdir()  # what makes `samples_x/../../..` a path
    (home / f"samples_t_{STAMP}.jsonl").rename(tmp_path / f"secret_{STAMP}.jsonl")
    for folder in ("a", "b"):
        file = tmp_path / folder / "org__model" / f"results_{STAMP}.json"
        file.write_text(file.read_text().replace('"t": {', '"x/../../../secret": {'))
    with pytest.raises(GrainsError, match="is a path where"):
        read_run(tmp_path / "b").samples("x/../../../secret")
    with pytest.raises(GrainsError, match="is a path where"):
        compare(tmp_path / "a", tmp_path / "b")
