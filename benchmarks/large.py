"""What one row of `compare` takes at 100,000 items among 250 rows: CPU seconds and peak memory.

Of its p-value, with as many resamples as so many rows take, its interval and its minimum detectable effect.

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
from grains_eval.comparison.bootstrap import Studentised
from grains_eval.comparison.intervals import Estimate, paired, two_sided
from grains_eval.comparison.proportions import lower_end, tail


def shares(n: int, generator: np.random.Generator) -> Estimate:
    """0/1 scores of which a tenth change."""
    first = (generator.random(n) < 0.5) * 1.0
    return paired(first, np.where(generator.random(n) < 0.1, 1 - first, first))


def graded(n: int, generator: np.random.Generator) -> Estimate:
    """Scores between 0 and 1."""
    return paired(generator.random(n), generator.random(n))


def clusters(n: int, generator: np.random.Generator) -> Estimate:
    """Scores between 0 and 1 in clusters of ten."""
    return paired(generator.random(n), generator.random(n) ** 0.95, clusters=(np.arange(n) // 10).tolist())


def bleu(n: int, generator: np.random.Generator) -> Estimate:
    """Twenty words, of which six and seven in ten are right."""
    metric = corpus.corpus_metric("bleu")
    assert metric is not None
    lengths = np.stack([np.full(n, 20.0)] * 2, axis=1)
    totals = np.stack([np.full(n, 20.0 - order) for order in range(4)], axis=1)
    sides = [
        np.concatenate([lengths, generator.binomial(totals.astype(int), share ** np.arange(1, 5)), totals], axis=1)
        for share in (0.6, 0.7)
    ]
    return corpus.compare(metric, *sides)


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
    "clusters": clusters,
    "F1": f1,
    "BLEU": bleu,
}
# The level of Holm's first step among 250 rows.
LEVEL = 0.05 / 250


def _row(found: Estimate) -> tuple[float, ...]:
    """p, interval and detectable effect, as `compare.adjust` has them."""
    procedure = found.procedure
    if isinstance(procedure, Studentised):
        procedure = procedure.resolved(LEVEL)
    low, high = procedure.interval(found.alpha)
    assert low < high
    return two_sided(procedure), low, high, procedure.detectable(LEVEL, 0.8)


def run(n: int) -> list[dict[str, Any]]:
    """One row per kind of metric; time and memory are taken in runs of their own."""
    rows: list[dict[str, Any]] = []
    for name, case in CASES.items():
        before = time.process_time()
        found = case(n, np.random.default_rng(0))
        first = _row(found)
        seconds = time.process_time() - before
        tail.cache_clear()
        lower_end.cache_clear()
        tracemalloc.start()
        assert _row(case(n, np.random.default_rng(0))) == first
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
