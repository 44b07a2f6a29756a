"""Vectors to write and read."""

from __future__ import annotations

import torch

from grains_eval.types import SteeringConfig, SteeringVectors


def vectors(width=8):
    return SteeringVectors(
        directions={1: torch.arange(width) / 3, 4: -torch.ones(width)},
        scales={1: 2.5, 4: 7.0},
        statistics={1: {"agreement": 0.25, "explained_variance": float("nan")}, 4: {}},
        recommended=SteeringConfig((4,), 0.5, "relative", "add", "prompt"),
        provenance={
            "method": "grains",
            "base_model": "org/m",
            "seed": 3,
            "doc_hashes": {"build": ["a"], "development": []},
        },
    )
