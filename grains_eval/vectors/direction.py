"""From the deltas of N examples to one direction (method step 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from sklearn.decomposition import PCA, TruncatedSVD
from torch import Tensor

DirectionKind = Literal["mean", "uncentred_pca", "pca"]


@dataclass(frozen=True)
class Direction:
    """A direction with what tells how far to trust it.

    Attributes:
        vector: `[H]` float32 of unit length, its sign that of the mean delta; zero where there were no deltas.
        statistics: `examples`: N; `delta_norm`: length of the mean delta; `explained_variance`: share of the deltas'
            squared length along the vector (centred deltas for `pca`); `mean_delta_cosine`; `agreement`: mean cosine
            between the deltas of two examples, which predicts reliability (Braun et al. 2025).
    """

    vector: Tensor
    statistics: dict[str, float]


def direction(deltas: Tensor, kind: DirectionKind) -> Direction:
    """The direction of `[N, H]` deltas.

    `mean`: their mean. `uncentred_pca`: first right singular vector. `pca`: first principal component of the centred
    deltas, which is the paper's and throws the mean shift away.
    """
    if not len(deltas):
        return Direction(torch.zeros(deltas.shape[-1]), {"examples": 0.0})
    deltas = deltas.float()
    mean = deltas.mean(dim=0)
    if kind == "mean" or len(deltas) == 1 or not mean.any():
        vector = mean
    else:
        reducer = PCA(n_components=1) if kind == "pca" else TruncatedSVD(n_components=1, algorithm="arpack")
        if kind == "pca":
            reducer.set_params(svd_solver="full")
        reducer.fit(deltas.double().numpy())
        components: Any = reducer.components_
        vector = torch.from_numpy(components[0]).float()
        vector = vector if vector @ mean >= 0 else -vector
    vector = vector / vector.norm().clamp_min(1e-12)
    spread = deltas - mean if kind == "pca" else deltas
    unit = torch.nn.functional.normalize(deltas, dim=-1)
    pairs = len(deltas) * (len(deltas) - 1)
    return Direction(
        vector,
        {
            "examples": float(len(deltas)),
            "delta_norm": float(mean.norm()),
            "explained_variance": float((spread @ vector).square().sum() / spread.square().sum().clamp_min(1e-24)),
            "mean_delta_cosine": float(torch.nn.functional.cosine_similarity(vector, mean, dim=0)),
            "agreement": float((unit.sum(0).square().sum() - unit.square().sum()) / pairs) if pairs else float("nan"),
        },
    )
