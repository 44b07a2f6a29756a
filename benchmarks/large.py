"""What one row of `compare` takes at 100,000 items: CPU seconds and peak memory of its p-value and interval.

python -m benchmarks.large --output benchmarks/results/large.json
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import common
from grains_eval.comparison import corpus_metrics as corpus
from grains_eval.comparison.intervals import Estimate, paired
from grains_eval.comparison.proportions import lower_end, tail


def shares(n: int, generator: np.random.Generator) -> Estimate:
    """0/1 scores of which a tenth change."""
    first = (generator.random(n) < 0.5) * 1.0
    return paired(first, np.where(generator.random(n) < 0.1, 1 - first, first))


def graded(n: int, generator: np.random.Generator) -> Estimate:
    """Scores between 0 and 1."""
    return paired(generator.random(n), generator.random(n))


def f1(n: int, generator: np.random.Generator) -> Estimate:
    """Two classes, three in four right."""
    gold = generator.integers(0, 2, n)
    sides = [np.where(generator.random(n) < share, gold, 1 - gold) for share in (0.75, 0.76)]
    metric = corpus.CORPUS_METRICS["f1"]
    pairs = [list(zip(gold.tolist(), side.tolist(), strict=True)) for side in sides]
    return corpus.compare(metric, *metric.statistics(*pairs))


CASES: Mapping[str, Callable[[int, np.random.Generator], Estimate]] = {
    "0/1": shares,
    "betting": graded,
    "F1": f1,
}


def run(n: int) -> list[dict[str, Any]]:
    """One row per kind of metric; time and memory are taken in runs of their own."""
    rows: list[dict[str, Any]] = []
    for name, case in CASES.items():
        before = time.process_time()
        found = case(n, np.random.default_rng(0))
        low, high = found.interval
        assert low < high and 0 <= found.p <= 1
        seconds = time.process_time() - before
        tail.cache_clear()
        lower_end.cache_clear()
        tracemalloc.start()
        again = case(n, np.random.default_rng(0))
        assert again.interval == (low, high)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows.append(
            {"metric": name, "items": n, "test": found.test, "CPU seconds": round(seconds, 1), "peak MB": peak // 10**6}
        )
    return rows


def main() -> None:
    """Print and write the table."""
    arguments = common.parser(__doc__ or "").parse_args()
    common.start(arguments)
    common.report("large", run(2_000 if arguments.smoke else 100_000), arguments)


if __name__ == "__main__":
    main()
