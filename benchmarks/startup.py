"""What it takes until a command of `compare` is done: CPU seconds of the whole process, against Python alone.

python -m benchmarks.startup --output benchmarks/results/startup.json
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common

COMPARE = "import sys; from grains_eval.cli import main; sys.exit(main(sys.argv[1:]))"


def write(folder: Path, items: int, seed: int) -> Path:
    """A run of one 0/1 metric, as lm_eval writes it."""
    stamp = "2026-01-01T00-00-00.000000"
    right = (np.random.default_rng(seed).random(items) < 0.5).astype(float)
    folder.mkdir(parents=True)
    (folder / f"results_{stamp}.json").write_text(
        json.dumps(
            {
                "results": {"t": {"acc,none": float(right.mean())}},
                "configs": {"t": {"metric_list": [{"metric": "acc", "aggregation": "mean"}]}},
                "n-samples": {"t": {"effective": items}},
                "config": {"model": "hf", "model_args": {"pretrained": "org/model"}},
            }
        )
    )
    row = {"filter": "none", "metrics": ["acc"], "prompt_hash": "p", "target_hash": "t", "target": "0"}
    lines = [
        json.dumps({**row, "doc_id": i, "doc_hash": f"{i}", "doc": {"question": f"q {i}"}, "acc": value})
        for i, value in enumerate(right)
    ]
    (folder / f"samples_t_{stamp}.jsonl").write_text("\n".join(lines))
    return folder


def cpu(words: list[str]) -> float:
    """CPU seconds of a Python process and what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(items: int, repeats: int) -> list[dict[str, Any]]:
    """Commands in turn, so that a busy machine slows all of them."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        pair = [str(write(home / name, items, seed)) for seed, name in enumerate(("baseline", "steered"))]
        output = ["--output_path", str(home / "report"), "--overwrite"]
        commands = {
            "python -c pass": ["-c", "pass"],
            "grains-eval compare --help": ["-c", COMPARE, "compare", "--help"],
            "python -c 'import scipy.stats, matplotlib.figure'": ["-c", "import scipy.stats, matplotlib.figure"],
            f"grains-eval compare, two runs of {items} items": ["-c", COMPARE, "compare", *pair, *output],
            "python -c 'import torch'": ["-c", "import torch"],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats):
            for name, words in commands.items():
                taken[name].append(cpu(words))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    least = medians["python -c pass"]
    return [
        {"command": name, "CPU seconds": round(spent, 2), "times python": round(spent / least, 1)}
        for name, spent in medians.items()
    ]


def main() -> None:
    """Print and write the table."""
    arguments = common.parser(__doc__ or "").parse_args()
    common.start(arguments)
    common.report("startup", run(200, 1 if arguments.smoke else arguments.repeats), arguments)


if __name__ == "__main__":
    main()
