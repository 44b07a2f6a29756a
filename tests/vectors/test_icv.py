"""ICV against scikit-learn's decompositions of the stacked differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, TruncatedSVD

from grains_eval.errors import GrainsError
from grains_eval.models import LoadedModel
from grains_eval.vectors import run_method
from tests.vectors.contexts import context, differences_by_hand


@pytest.mark.parametrize(
    ("kind", "reducer"),
    [
        ("uncentred_pca", TruncatedSVD(n_components=1, algorithm="arpack")),
        ("pca", PCA(n_components=1, svd_solver="full")),
    ],
)
def test_one_direction_of_all_layers_at_once(
    loaded_text: Callable[[str], LoadedModel], kind: str, reducer: PCA | TruncatedSVD
) -> None:
    loaded = loaded_text("llama")
    vectors = run_method(context(loaded, "icv", direction=kind)).vectors
    stacked = differences_by_hand(loaded).flatten(1).double().numpy()
    component = reducer.fit(stacked).components_[0]
    component = component * np.sign(component @ stacked.mean(axis=0))
    found = torch.cat([vectors.directions[layer] for layer in vectors.layers]).double().numpy()
    np.testing.assert_allclose(found, component, atol=1e-4)
    # a decomposition per layer would give every layer length 1
    assert sum(float(v.square().sum()) for v in vectors.directions.values()) == pytest.approx(1.0, abs=1e-5)
    assert sum(s["share"] for s in vectors.statistics.values()) == pytest.approx(1.0, abs=1e-5)


def test_an_unknown_option_is_named(loaded_text: Callable[[str], LoadedModel]) -> None:
    with pytest.raises(GrainsError, match=r"unknown key in vectors\.options of icv 'directoin'.*direction"):
        run_method(context(loaded_text("llama"), "icv", directoin="pca"))
