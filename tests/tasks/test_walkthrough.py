"""Does what docs/tasks.md says: a behaviour from YAML and JSONL alone, from the code blocks of the page."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
FILES = {f"manners/{name}" for name in ("train.jsonl", "test.jsonl", "politeness.yaml", "recipe.yaml", "run.sh")}


def blocks(page: str) -> dict[str, str]:
    """The code blocks that name their file in the fence."""
    return dict(re.findall(r"^```\w+ title=\"([^\"]+)\"\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE))


@pytest.mark.slow
def test_the_page_works_as_written(tmp_path: Path, tiny_text: Callable[[str], Path]):
    files = blocks(PAGE.read_text())
    assert set(files) == FILES
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {
        **os.environ,
        "MODEL": f"{tiny_text('llama')},dtype=float32",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-e", "manners/run.sh"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]

    scored: dict[str, list[list[float]]] = {}
    pairs = [json.loads(line) for line in files["manners/test.jsonl"].splitlines()]
    config = json.loads((tmp_path / "vectors/politeness/steering_config.json").read_text())
    hashes = {doc_hash for part in _lists(config) for doc_hash in part if len(str(doc_hash)) == 64}
    assert len(hashes) == 6  # four build, two development items
    for run in ("baseline", "steered"):
        (results,) = (tmp_path / "runs" / run).rglob("results_*.json")
        assert 0 <= json.loads(results.read_text())["results"]["politeness"]["acc,none"] <= 1
        (samples,) = (tmp_path / "runs" / run).rglob("samples_politeness_*.jsonl")
        rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
        assert [row["doc"] for row in rows] == pairs
        for row, pair in zip(rows, pairs, strict=True):
            choices = [argument["arg_1"] for argument in row["arguments"].values()]
            assert choices == [f" {pair['polite']}", f" {pair['rude']}"]
            assert row["doc_hash"] not in hashes
        scored[run] = [[float(response[0][0]) for response in row["resps"]] for row in rows]
    assert scored["baseline"] != scored["steered"]


def _lists(value: object) -> list[list[object]]:
    """Every list inside a JSON value."""
    if isinstance(value, dict):
        return [found for item in value.values() for found in _lists(item)]
    if isinstance(value, list):
        return [value, *(found for item in value for found in _lists(item))]
    return []
