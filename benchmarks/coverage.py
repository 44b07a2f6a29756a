"""How often the verdicts of `compare` are wrong, and what their caution costs, on simulated runs.

    python -m benchmarks.coverage --runs 500 --output benchmarks/results/coverage.json

In each case the true loss is exactly the margin, so that "kept" is wrong whenever it is said: nominally in 2.5 % of
runs. "Truth rejected" is nominally 5 %; at Holm's first step of 250 rows, both are a 250th of that. Beside them the
rates of Student's t on the same data, and how often "kept" is said where nothing is lost. Rates of 0/1 items and of
bounded scores are guaranteed, the others are as measured. After ± stands the Monte Carlo standard error.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import common
from grains_eval.comparison import bootstrap
from grains_eval.comparison import corpus_metrics as corpus
from grains_eval.comparison.betting import log_capital
from grains_eval.comparison.clusters import cluster_sums
from grains_eval.comparison.estimates import Row
from grains_eval.comparison.intervals import BinaryPairs, Procedure, Undecided, paired
from grains_eval.comparison.noninferiority import judge_rows
from grains_eval.comparison.significance import Array
from grains_eval.types import Comparison

ALPHA = 0.05
# Enough for rates of errors, which do not depend on the number of resamples; reports draw more.
DRAWS = 499
# The level of Holm's first step.
ROWS = 250


@dataclass(frozen=True)
class Rates:
    """Shares of runs: "kept" said, the truth rejected, no verdict."""

    kept: float
    rejected: float = math.nan
    silent: float = 0.0


UNKNOWN = Rates(math.nan)


def from_tails(tails: Array, level: float = ALPHA) -> Rates:
    """Rates from `[R, 2]` one-sided p-values at the truth; NaN where there is no verdict."""
    with np.errstate(invalid="ignore"):
        kept, rejected = tails[:, 0] <= level / 2, tails.min(axis=1) <= level / 2
    return Rates(float(kept.mean()), float(rejected.mean()), float(np.isnan(tails[:, 0]).mean()))


def by_betting(values: Array, truth: float) -> Rates:
    """Betting on `[R, n]` differences between -1 and 1; their order is random as it is."""
    both = np.concatenate([values, -values])
    truths = np.repeat([truth, -truth], values.shape[0])[:, None]
    return from_tails(np.exp(-log_capital(both, truths, math.log(2 / ALPHA))).reshape(2, -1).T)


def by_t(values: Array, truth: float, level: float = ALPHA) -> Rates:
    """Student's t on the same differences."""
    n = values.shape[1]
    error = values.std(axis=1, ddof=1) / math.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.nan_to_num((values.mean(axis=1) - truth) / error)
    return from_tails(np.stack([stats.t.sf(statistic, n - 1), stats.t.cdf(statistic, n - 1)], axis=1), level)


def by_bootstrap(values: Array, truth: float, bounded: bool = True, level: float = ALPHA) -> Rates:
    """The studentised bootstrap on `[R, n]` items, or means of equal clusters."""
    found = [_mean(row - truth, np.ones(row.size), bounded, level).tails(0.0) for row in values]
    return from_tails(np.array(found), level)


def _mean(values: Array, weights: Array, bounded: bool, level: float = ALPHA) -> Procedure:
    """As `report.statistics` does it, with fewer resamples where these do."""
    sums, shares, squares = cluster_sums(values, range(values.size), weights)
    equal = bootstrap.effective(sums, shares, squares)
    if bootstrap.units_needed(sums.size, equal, bounded) is not None:
        return Undecided()
    return bootstrap.of_mean(sums, shares, 0, DRAWS, freedom=equal - 1).resolved(level)


def collapse(n: int, repeats: int, generator: np.random.Generator, jitter: float) -> Array:
    """`[R, n]`: 1.25 % of items lose .8 of a graded score, the others jitter; the mean loss is one point."""
    lost = generator.random((repeats, n)) < 0.0125
    others = np.clip(generator.normal(0, jitter, (repeats, n)), -0.1, 0.1)
    return np.where(lost, -0.8, others)


def _counts(n: int, repeats: int, generator: np.random.Generator, helped: float, harmed: float) -> Array:
    return generator.multinomial(n, [helped, harmed, 1 - helped - harmed], size=repeats)[:, :2]


def by_counts(counts: Array, n: int, truth: float) -> Rates:
    """Exact tests on `[R, 2]` helped and harmed items."""
    known: dict[tuple[int, int], tuple[float, float]] = {}
    for helped, harmed in counts.tolist():
        known.setdefault((helped, harmed), BinaryPairs(helped, harmed, n).tails(truth))
    return from_tails(np.array([known[helped, harmed] for helped, harmed in counts.tolist()]))


def skewed_clusters(count: int, repeats: int, generator: np.random.Generator, level: float = ALPHA) -> Rates:
    """Means of equal clusters with an exponential tail to the bad side."""
    return by_bootstrap(1 - generator.exponential(size=(repeats, count)), 0.0, level=level)


def unequal_clusters(count: int, repeats: int, generator: np.random.Generator) -> Rates:
    """Clusters of 4 to 40 items that share half of their spread."""
    tails: list[tuple[float, float]] = []
    for _ in range(repeats):
        sizes = generator.integers(4, 41, count)
        means = generator.normal(size=count) * math.sqrt(0.5) + generator.normal(size=count) * np.sqrt(0.5 / sizes)
        shares = sizes / sizes.sum()
        equal = bootstrap.effective(shares * means, shares, shares / sizes.sum())
        needed = bootstrap.units_needed(count, equal, bounded=True)
        made = Undecided() if needed else bootstrap.of_mean(shares * means, shares, 0, DRAWS, freedom=equal - 1)
        tails.append(made.tails(0.0))
    return from_tails(np.array(tails))


def collapsing(count: int, repeats: int, generator: np.random.Generator, size: int, jitter: float) -> Rates:
    """Clusters of so many items of which 1.25 % lose .8 of a graded score, by whatever `paired` takes for them."""
    tails: list[tuple[float, float]] = []
    labels = np.repeat(np.arange(count), size)
    for values in collapse(count * size, repeats, generator, jitter):
        procedure = paired(np.zeros(values.size), values, clusters=labels.tolist(), reach=1.0).procedure
        if isinstance(procedure, bootstrap.Studentised):
            procedure = procedure.redrawn(DRAWS)
        tails.append(procedure.tails(-0.01))
    return from_tails(np.array(tails))


def lognormal(n: int, repeats: int, generator: np.random.Generator, level: float = ALPHA) -> Rates:
    """A score without bounds whose differences are a centred lognormal, turned to the bad side."""
    return by_bootstrap(math.exp(0.5) - generator.lognormal(size=(repeats, n)), 0.0, bounded=False, level=level)


def _tables(first: Array, second: Array, metric: corpus.CorpusMetric, truth: float) -> tuple[float, float]:
    return corpus.compare(metric, first, second, draws=DRAWS).procedure.tails(truth)


def f1_harm(n: int, repeats: int, generator: np.random.Generator) -> Rates:
    """F1, only harm: 2.5 % of right answers to positives turn wrong; the margin is the true loss."""
    metric = corpus.CORPUS_METRICS["f1"]
    rates = np.array([[0.35, 0.15, 0.15], [0.35 * 0.975, 0.15, 0.15 + 0.35 * 0.025]])
    before, after = (2 * tp / (2 * tp + fp + fn) for tp, fp, fn in rates)
    tails: list[tuple[float, float]] = []
    for _ in range(repeats):
        kind = generator.choice(4, size=n, p=[0.35, 0.15, 0.15, 0.35])
        first = np.eye(4)[kind]
        first[:, 3] = (kind == 0) | (kind == 3)
        second = first.copy()
        second[(kind == 0) & (generator.random(n) < 0.025)] = [0, 0, 1, 0]
        tails.append(_tables(first, second, metric, after - before))
    return from_tails(np.array(tails))


def perplexity(n: int, repeats: int, generator: np.random.Generator, rare: bool = False) -> Rates:
    """Word perplexity: log-likelihoods per word fall by a lognormal of the documents, or in one of eighty by 4 nats."""
    metric = corpus.CORPUS_METRICS["weighted_perplexity"]
    sigma, fall = 1.0, 0.05
    # Documents of 50 to 400 words; the mean fall per word is the same for each length.
    truth = math.exp(3 + fall) - math.exp(3)
    tails: list[tuple[float, float]] = []
    for _ in range(repeats):
        words = generator.integers(50, 401, n)
        first = -words * (3 + generator.normal(0, 0.3, n))
        worse = fall * generator.lognormal(-(sigma**2) / 2, sigma, n)
        if rare:
            worse = np.where(generator.random(n) < 0.0125, fall / 0.0125, generator.normal(0, fall / 10, n))
        tables = [np.column_stack([side, words]).astype(float) for side in (first, first - words * worse)]
        # The true difference of expected perplexities at this baseline's level.
        level = math.exp(-first.sum() / words.sum()) / math.exp(3)
        above, below = _tables(tables[0], tables[1], metric, truth * level)
        tails.append((below, above))
    return from_tails(np.array(tails))


def subtasks(count: int, repeats: int, generator: np.random.Generator, groups: str) -> Rates:
    """A group of 100 items a subtask, with true effects that differ by three points around zero."""
    effects = generator.normal(0, 0.03, (repeats, count))
    churn = 0.1
    helped = generator.binomial(100, np.clip(churn / 2 + effects / 2, 0, 1))
    harmed = generator.binomial(100, np.clip(churn / 2 - effects / 2, 0, 1))
    if groups == "sampled":
        return by_bootstrap((helped - harmed) / 100, 0.0)
    n = 100 * count
    pairs = [
        BinaryPairs(int(a), int(b), n).tails(float(truth))
        for a, b, truth in zip(helped.sum(axis=1), harmed.sum(axis=1), effects.mean(axis=1), strict=True)
    ]
    return from_tails(np.array(pairs))


def preserved(n: int, repeats: int, generator: np.random.Generator, count: int = 8) -> Rates:
    """Eight preserved 0/1 tasks, each on the margin of two points: any of them called kept."""
    wrong = 0
    for _ in range(repeats):
        rows = [_row(int(a), int(b), n) for a, b in _counts(n, count, generator, 0.02, 0.04)]
        wrong += any(verdict.answer == "kept" for verdict in judge_rows(rows, 0.02))
    return Rates(wrong / repeats)


class _TestsOnly(BinaryPairs):
    """Without the intervals, on which no answer rests."""

    def interval(self, level: float) -> tuple[float, float]:
        """Not computed."""
        return math.nan, math.nan


def _row(helped: int, harmed: int, n: int) -> Row:
    procedure, difference = _TestsOnly(helped, harmed, n), (helped - harmed) / n
    comparison = Comparison(
        task="t", metric="acc", n=n, baseline=0.5, steered=0.5 + difference, difference=difference,
        standard_error=math.nan, interval=procedure.interval(ALPHA), p=1.0, adjusted_p=1.0, test="exact McNemar",
        helped=helped, harmed=harmed, unchanged=n - helped - harmed,
    )  # fmt: skip
    return Row(comparison, (), procedure)


Case = Callable[[int, int, np.random.Generator], Rates]
ERRORS: Mapping[str, Case] = {
    "0/1, rare collapse": lambda n, r, g: by_counts(_counts(n, r, g, 0.0, 0.01), n, -0.01),
    "0/1, churn": lambda n, r, g: by_counts(_counts(n, r, g, 0.05, 0.06), n, -0.01),
    "graded, rare collapse, others jitter": lambda n, r, g: by_betting(collapse(n, r, g, 0.02), -0.01),
    "graded, rare collapse, others tied": lambda n, r, g: by_betting(collapse(n, r, g, 0.0), -0.01),
    "equal clusters, skewed": skewed_clusters,
    "equal clusters, skewed, first of 250 rows": lambda n, r, g: skewed_clusters(n, r, g, ALPHA / ROWS),
    "unequal clusters, normal": unequal_clusters,
    "clusters of 35, rare collapse of items": lambda n, r, g: collapsing(n, r, g, 35, 0.02),
    "whole clusters collapse, others jitter": lambda n, r, g: collapsing(n, r, g, 1, 0.02),
    "whole clusters collapse, others tied": lambda n, r, g: collapsing(n, r, g, 1, 0.0),
    "F1, only harm": f1_harm,
    "no bounds, lognormal": lognormal,
    "no bounds, lognormal, first of 250 rows": lambda n, r, g: lognormal(n, r, g, ALPHA / ROWS),
    "word perplexity, skewed": perplexity,
    "word perplexity, rare collapse": lambda n, r, g: perplexity(n, r, g, rare=True),
    "group, fixed subtasks": lambda n, r, g: subtasks(n, r, g, "fixed"),
    "group, sampled subtasks": lambda n, r, g: subtasks(n, r, g, "sampled"),
    "8 preserved tasks, any": preserved,
}
SIZES: Mapping[str, tuple[int, ...]] = {
    "0/1, rare collapse": (100, 200, 400, 800),
    "0/1, churn": (100, 400),
    "graded, rare collapse, others jitter": (100, 200, 400, 800),
    "graded, rare collapse, others tied": (100, 200, 400, 800),
    "equal clusters, skewed": (5, 10, 15, 20, 30, 57),
    "equal clusters, skewed, first of 250 rows": (20, 57),
    "unequal clusters, normal": (12, 20, 57),
    "clusters of 35, rare collapse of items": (20, 57),
    "whole clusters collapse, others jitter": (57, 400),
    "whole clusters collapse, others tied": (57, 400),
    "F1, only harm": (400, 2_000),
    "no bounds, lognormal": (29, 60, 100, 800),
    "no bounds, lognormal, first of 250 rows": (60, 100),
    "word perplexity, skewed": (30, 60, 100, 800),
    "word perplexity, rare collapse": (100, 400, 800),
    "group, fixed subtasks": (9, 10),
    "group, sampled subtasks": (9, 10, 20, 57),
    "8 preserved tasks, any": (400,),
}
PROCEDURES: Mapping[str, str] = {
    "0/1": "exact tests of shares", "graded": "betting", "equal": "cluster bootstrap", "unequal": "cluster bootstrap",
    "clusters of": "cluster bootstrap", "whole clusters collapse, others jitter": "cluster bootstrap",
    "whole clusters collapse, others tied": "betting over clusters, from 8 collapses on bootstrap",
    "F1": "studentised bootstrap", "no": "studentised bootstrap", "word": "studentised bootstrap",
    "group, fixed": "exact tests of shares", "group, sampled": "cluster bootstrap", "8": "the same, Holm",
}  # fmt: skip
GUARANTEED = ("0/1", "graded", "group, fixed", "8")
QUICK = ("0/1", "graded", "equal", "no bounds", "word perplexity, skewed")


def _same(case: str, n: int, repeats: int, generator: np.random.Generator) -> Rates:
    """Student's t on the data of a case whose unit is one number."""
    level = ALPHA / ROWS if "first of" in case else ALPHA
    if case.startswith("graded"):
        return by_t(collapse(n, repeats, generator, 0.02 if "jitter" in case else 0.0), -0.01)
    if case.startswith("equal"):
        return by_t(1 - generator.exponential(size=(repeats, n)), 0.0, level)
    if case.startswith("no bounds"):
        return by_t(math.exp(0.5) - generator.lognormal(size=(repeats, n)), 0.0, level)
    return UNKNOWN


# "Kept" where nothing is lost: name, items, share of items moved, margin.
_SIZES = ((14_042, 0.005), (2_000, 0.01), (1_000, 0.01))
POWER = tuple((n, moved, margin) for n, margin in _SIZES for moved in (0.01, 0.03, 0.05))


def moved_items(n: int, repeats: int, generator: np.random.Generator, share: float) -> Array:
    """`[R, n]` graded differences: a share of items moves by .1 to .9 either way."""
    sign = np.where(generator.random((repeats, n)) < 0.5, -1.0, 1.0)
    return np.where(generator.random((repeats, n)) < share, sign * generator.uniform(0.1, 0.9, (repeats, n)), 0.0)


# Samples of the largest size that are held at once.
AT_ONCE = 100


def _power(repeats: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for n, share, margin in POWER:
        label = f"{share:.0%} of items moved, margin {margin:.1%}"
        binary = by_counts(_counts(n, repeats, generator, share / 2, share / 2), n, -margin).kept
        rows.append(_cells(f"0/1, {label}", n, repeats, power=binary))
        sizes = [min(AT_ONCE, repeats - start) for start in range(0, repeats, AT_ONCE)]
        found = [_kept(moved_items(n, size, generator, share), -margin) for size in sizes]
        betting, plain, clustered = np.average(found, axis=0, weights=sizes).tolist()
        rows.append(_cells(f"graded, {label}", n, repeats, power=betting, plain_power=plain))
        if n > 10_000:
            rows.append(_cells(f"graded, 57 clusters, {label}", n, repeats, power=clustered, plain_power=plain))
    return rows


def _kept(values: Array, truth: float) -> tuple[float, float, float]:
    """How often `[R, n]` items are called kept by betting, by t, and in 57 clusters of nearly one size."""
    means = np.stack([part.mean(axis=1) for part in np.array_split(values, 57, axis=1)], axis=1)
    return by_betting(values, truth).kept, by_t(values, truth).kept, by_bootstrap(means, truth).kept


def _cells(
    case: str,
    n: int,
    runs: int,
    ours: Rates = UNKNOWN,
    plain: Rates = UNKNOWN,
    power: float = math.nan,
    plain_power: float = math.nan,
) -> dict[str, Any]:
    name = next((PROCEDURES[key] for key in PROCEDURES if case.startswith(key)), "")
    guaranteed = case.startswith(GUARANTEED)
    if "57 clusters" in case:
        name, guaranteed = "cluster bootstrap", False
    return {
        "case": case,
        "n": n,
        "runs": runs,
        "procedure": name,
        "error rates": "guaranteed" if guaranteed else "as measured",
        "no verdict": _share(ours.silent or math.nan, runs),
        "wrongly kept": _share(ours.kept, runs) if ours.silent < 1 else "–",
        "truth rejected": _share(ours.rejected, runs) if ours.silent < 1 else "–",
        "wrongly kept by t": _share(plain.kept, runs),
        "rejected by t": _share(plain.rejected, runs),
        "kept, nothing lost": _share(power, runs),
        "the same by t": _share(plain_power, runs),
    }


def _share(value: float, runs: int) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} ± {100 * math.sqrt(value * (1 - value) / runs):.1f} %"


POWERS = "kept, nothing lost"


def run(repeats: int, only: Sequence[str] = (), known: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """All cases; where `only` names some by their beginnings, the others keep their `known` rows."""

    def chosen(case: str) -> bool:
        return not only or case.startswith(tuple(only))

    rows: list[dict[str, Any]] = []
    for case, sizes in SIZES.items():
        if not chosen(case):
            rows += [row for row in known if row["case"] == case]
            continue
        for n in sizes:
            runs = repeats * (4 if case.startswith(QUICK) else 1)
            ours = ERRORS[case](n, runs, np.random.default_rng([1, n]))
            rows.append(_cells(case, n, runs, ours, _same(case, n, runs, np.random.default_rng([1, n]))))
    if chosen(POWERS):
        return [*rows, *_power(max(20, 2 * repeats // 5), np.random.default_rng(2))]
    return [*rows, *(row for row in known if row[POWERS] != _share(math.nan, 1))]


def main() -> None:
    """Print and write the table; in a smoke every case runs, and its rates mean nothing."""
    parser = common.parser(__doc__ or "")
    parser.add_argument(
        "--runs",
        type=int,
        default=1_000,
        help="of a case; quick ones take four times as many, powers two fifths",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], help=f"cases that begin so, '{POWERS}' for powers; others stay as in --output"
    )
    arguments = parser.parse_args()
    common.start(arguments)
    old = arguments.output
    known = json.loads(old.read_text())["rows"] if arguments.only and old is not None and old.is_file() else []
    rows = run(20 if arguments.smoke else arguments.runs, arguments.only, known)
    if arguments.only:
        sys.argv[1:] = ["--runs", str(arguments.runs)]  # what makes the whole table
    common.report("coverage", rows, arguments)


if __name__ == "__main__":
    main()
