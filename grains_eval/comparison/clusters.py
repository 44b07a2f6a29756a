"""Standard errors where items of one cluster (subject, group, image) move together."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from grains_eval.comparison.significance import Array


def cluster_sums(
    differences: Array, clusters: Sequence[Hashable], weights: ArrayLike | None = None
) -> tuple[Array, Array, Array]:
    """Weighted sums per cluster.

    Returns:
        `[G]` contributions `sum w_i d_i`, `[G]` shares `sum w_i`, `[G]` `sum w_i^2`; the weights sum to one.
    """
    labels: dict[Hashable, int] = {}
    index = np.array([labels.setdefault(label, len(labels)) for label in clusters], dtype=int)
    raw = np.ones(differences.size) if weights is None else np.asarray(weights, dtype=float)
    share = raw / raw.sum()
    count = len(labels)
    return (
        np.bincount(index, share * differences, count).astype(float),
        np.bincount(index, share, count).astype(float),
        np.bincount(index, share**2, count).astype(float),
    )


def jackknife_error(sums: Array, shares: Array) -> Array:
    """`[...]` leave-one-cluster-out standard errors (CV3) of weighted means over `[..., G]` clusters.

    MacKinnon, Nielsen and Webb 2023, Journal of Applied Econometrics 38. Zero where only rounding is left.
    """
    count = sums.shape[-1]
    scores = (sums - shares * sums.sum(axis=-1, keepdims=True)) / np.maximum(1 - shares, 1e-300)
    error = np.sqrt((count - 1) / count * np.square(scores).sum(axis=-1))
    return np.where(error < 1e-14 * np.maximum(np.abs(sums).sum(axis=-1), 1e-300), 0.0, error)


def cluster_jackknife(sums: Array, shares: Array, squares: Array) -> tuple[float, float]:
    """Cluster-robust standard error of a weighted mean, and its degrees of freedom.

    The leave-one-cluster-out jackknife CV3 with Satterthwaite degrees of freedom (Bell and McCaffrey 2002) for
    independent items.
    With clusters of one size it equals the usual CR1 with `G - 1`; with unequal sizes CR1 rejects too often.

    Args:
        sums: `[G]` contributions of the clusters.
        shares: `[G]` their weights, summing to one.
        squares: `[G]` sums of squared item weights.
    """
    count = sums.size
    if count < 2:
        return math.nan, 0.0
    error = float(jackknife_error(sums, shares))
    factor = (count - 1) / count / (1 - shares) ** 2
    # Moments of the quadratic form: M = D - r v' - v r' + Q v v', with D diagonal.
    v, r, total = np.sqrt(factor) * shares, np.sqrt(factor) * squares, float(squares.sum())
    diagonal = factor * squares
    trace = float(np.sum(diagonal - 2 * r * v + total * v * v))
    gram = np.array([[r @ r, r @ v], [r @ v, v @ v]])
    core = np.array([[0.0, -1.0], [-1.0, total]]) @ gram
    cross = float(np.sum(diagonal * (total * v * v - 2 * r * v)))
    square = float(np.sum(diagonal**2)) + 2 * cross + float(np.trace(core @ core))
    return error, min(count - 1.0, trace**2 / square)


def cluster_standard_error(differences: ArrayLike, clusters: Sequence[Hashable]) -> float:
    """The textbook CR1 standard error of a mean (as statsmodels' `cov_type="cluster"`), for comparison."""
    sums, shares, _ = cluster_sums(np.asarray(differences, dtype=float), clusters)
    count = sums.size
    scores = sums - shares * sums.sum()
    return math.sqrt(count / (count - 1) * float(np.sum(scores**2)))
