"""Whether the tokens that an attribution names are the ones that matter.

Comprehensiveness and sufficiency are those of DeYoung et al. (ERASER, ACL 2020, section 4.2), averaged over their five
shares of the prompt (AOPC, equation 3), with the preference in place of a class probability. Random rankings of the
same tokens stand beside each measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

from grains_eval.types import Attribution

Remove = Callable[[Sequence[Sequence[int]]], Tensor]

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
DRAWS = 3  # random rankings
MEASURES = ("comprehensiveness", "sufficiency", "leave_one_out")

# tokens left out one at a time; a rank correlation needs no more, and each costs a pass
LEFT_OUT = 16


@dataclass(frozen=True)
class ExampleFidelity:
    """One example's measures, each as the attribution's and the mean of random rankings'.

    Attributes:
        comprehensiveness: Mean over `SHARES` of `F(x) - F(x without the top share)`, nats; more is better.
        sufficiency: Mean over `SHARES` of `F(x) - F(x with nothing but the top share)`, nats; less is better.
        leave_one_out: Spearman's correlation of the scores with `F(x) - F(x without the token)`; 0 where either is
            constant, since it then orders nothing.
    """

    comprehensiveness: tuple[float, float]
    sufficiency: tuple[float, float]
    leave_one_out: tuple[float, float]


def example_fidelity(attribution: Attribution, remove: Remove, seed: int = 0, draws: int = DRAWS) -> ExampleFidelity:
    r"""Measure one example.

    Args:
        attribution: Scores of its prompt tokens; only candidates are ranked, removed or kept.
        remove: From sets of prompt positions to `F(x \ S)`, `[n]`, nats.
        seed: Seeds the random rankings and the tokens that are left out.
        draws: Random rankings.

    Raises:
        ValueError: fewer than two candidates.
    """
    candidates = np.flatnonzero(attribution.is_candidate.numpy())
    if len(candidates) < 2:
        raise ValueError("a ranking needs two candidates")
    random = np.random.default_rng(seed)
    scores = attribution.scores.double().numpy()[candidates]
    rankings = [np.argsort(-scores, kind="stable"), *(random.permutation(len(candidates)) for _ in range(draws))]
    sizes = [max(1, math.ceil(share * len(candidates))) for share in SHARES]
    alone = np.sort(random.permutation(len(candidates))[:LEFT_OUT])

    top = [candidates[ranking[:size]] for ranking in rankings for size in sizes]
    rest = [candidates[ranking[size:]] for ranking in rankings for size in sizes]
    asked = [(), *top, *rest, *([candidates[index]] for index in alone)]
    whole, *values = remove([[int(position) for position in each] for each in asked]).double().tolist()
    change = whole - np.array(values)

    erased, kept = change[: 2 * len(top)].reshape(2, len(rankings), len(sizes)).mean(axis=2)
    effects = change[2 * len(top) :]
    shuffled = [_rank_correlation(random.permutation(scores)[alone], effects) for _ in range(draws)]
    return ExampleFidelity(
        comprehensiveness=(float(erased[0]), float(erased[1:].mean())),
        sufficiency=(float(kept[0]), float(kept[1:].mean())),
        leave_one_out=(_rank_correlation(scores[alone], effects), float(np.mean(shuffled))),
    )


def _rank_correlation(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    found: Any = stats.spearmanr(left, right)
    return float(found.statistic)


def summarise(found: Sequence[ExampleFidelity]) -> dict[str, dict[str, float]]:
    """Means over examples, and the paired difference from random rankings with its 95 % t interval.

    Returns:
        Per name in `MEASURES`: `attributed`, `random`, `difference`, `low`, `high` (of the difference; NaN with one
        example) and `examples`.
    """
    measures: dict[str, dict[str, float]] = {}
    for name in MEASURES:
        pairs = np.array([getattr(each, name) for each in found])
        gained = pairs[:, 0] - pairs[:, 1]
        low = high = float("nan")
        if len(gained) > 1:
            half = float(stats.t.ppf(0.975, len(gained) - 1) * gained.std(ddof=1) / math.sqrt(len(gained)))
            low, high = float(gained.mean()) - half, float(gained.mean()) + half
        measures[name] = {
            "attributed": float(pairs[:, 0].mean()),
            "random": float(pairs[:, 1].mean()),
            "difference": float(gained.mean()),
            "low": low,
            "high": high,
            "examples": len(found),
        }
    return measures
