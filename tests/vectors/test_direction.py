"""From deltas to one direction, against scikit-learn and by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA

from grains_eval.vectors.direction import direction

DELTAS = torch.tensor([[3.0, 0.1, 0.0], [2.5, -0.4, 0.3], [3.5, 0.9, -0.2], [2.0, -0.7, 0.1]])


@pytest.mark.parametrize("kind", ["mean", "uncentred_pca", "pca"])
def test_a_direction_has_length_one_and_the_sign_of_the_mean(kind):
    found = direction(DELTAS, kind)
    assert float(found.vector.norm()) == pytest.approx(1.0, abs=1e-6)
    assert float(found.vector @ DELTAS.mean(dim=0)) >= 0
    assert torch.allclose(direction(-DELTAS, kind).vector, -found.vector, atol=1e-5)


def test_centring_throws_the_mean_shift_away():
    mean = DELTAS.mean(dim=0) / DELTAS.mean(dim=0).norm()
    assert float(direction(DELTAS, "uncentred_pca").vector @ mean) > 0.95
    centred = direction(DELTAS, "pca")
    expected = torch.from_numpy(PCA(1, svd_solver="full").fit(DELTAS.double().numpy()).components_[0]).float()
    assert abs(float(centred.vector @ expected)) == pytest.approx(1.0, abs=1e-5)


def test_agreement_is_the_mean_cosine_of_two_examples():
    unit = torch.nn.functional.normalize(DELTAS, dim=-1)
    cosines = [float(unit[i] @ unit[j]) for i in range(4) for j in range(4) if i != j]
    statistics = direction(DELTAS, "mean").statistics
    assert statistics["agreement"] == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)
    assert statistics["examples"] == 4 and statistics["mean_delta_cosine"] == pytest.approx(1.0, abs=1e-5)


def test_no_deltas_are_no_direction():
    empty = direction(torch.zeros(0, 3), "mean")
    assert not empty.vector.any() and empty.statistics == {"examples": 0.0}
