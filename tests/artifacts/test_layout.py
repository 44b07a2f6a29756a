"""Vectors are known by their numbers."""

from __future__ import annotations

from dataclasses import replace

import torch

from grains_eval.artifacts.layout import fingerprint
from tests.artifacts.samples import vectors


def test_the_fingerprint_sees_every_number_and_the_scales():
    one = vectors()
    moved = replace(one, directions={**one.directions, 4: one.directions[4] + torch.eye(8)[7] * 1e-6})
    prints = {fingerprint(v) for v in (one, moved, replace(one, scales={1: 2.5, 4: 7.1}))}
    assert len(prints) == 3
