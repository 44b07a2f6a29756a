"""Every benchmark at toy size: it runs, and its fast side gives the slow side's answers; times are not looked at."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch

# benchmark, flags, columns whose value bounds how far the two sides are apart
BENCHMARKS = [
    ("build", ["--smoke", "--no-memory"], ["scores differ by", "states differ by"]),
    ("build", ["--smoke", "--no-memory", "--obvious", "backward"], ["scores differ by", "states differ by"]),
    ("evaluate", ["--smoke", "--repeats", "1"], ["largest difference (nats)"]),
    ("sweep", ["--smoke", "--repeats", "1"], ["largest difference (nats)"]),
    ("images", ["--smoke", "--repeats", "1"], ["largest difference (nats)"]),
    ("gpu", ["--toy"], ["largest difference (nats)"]),
]


@pytest.mark.parametrize(("name", "flags", "columns"), BENCHMARKS)
def test_the_fast_side_is_exact(name, flags, columns, tmp_path, monkeypatch, capsys):
    output = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", [name, *flags, "--output", str(output)])
    with torch.random.fork_rng():
        importlib.import_module(f"benchmarks.{name}").main()
    found = json.loads(output.read_text())
    assert found["benchmark"] == name
    assert found["machine"]["versions"]["torch"]
    values = [row[column] for row in found["rows"] for column in columns if row.get(column) not in ("", None)]
    assert values
    assert max(values) < 1e-4
    assert "|" in capsys.readouterr().out


def test_a_side_that_is_wrong_stops_the_benchmark(monkeypatch, tmp_path):
    from benchmarks import build

    right = build.ours

    def wrong(*arguments):
        outcome = right(*arguments)
        return build.Outcome(outcome.scores * 1.01, outcome.states)

    monkeypatch.setattr(build, "ours", wrong)
    monkeypatch.setattr(sys, "argv", ["build", "--smoke", "--no-memory"])
    with pytest.raises(SystemExit, match="not exact"):
        build.main()
