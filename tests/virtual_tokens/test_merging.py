"""Found tokens become virtual ones by averages whose norms are restored."""

from __future__ import annotations

from dataclasses import replace
from math import inf, log

import pytest
import torch

from grains_eval.errors import GrainsError
from grains_eval.types import TokenConfig, TokenOrigin, TokenPool
from grains_eval.virtual_tokens.merging import average, merged, resolve_tokens
from tests.virtual_tokens.models import made, some_found


def test_average_points_at_the_mean_and_is_as_long_as_the_median():
    states = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 9.0]]])
    found = average(states)
    assert torch.allclose(found[0], 3 * torch.tensor([2.0, 1.0]) / 5**0.5)
    assert torch.allclose(found[1], torch.tensor([0.0, 2.0]))


def test_distance_is_the_upper_median_and_the_word_the_most_frequent():
    found = some_found(made("llama")).positive  # distances 2 to 5, ids 40, 41, 40, 41
    whole = merged(replace(found, origins=(*found.origins[:3], replace(found.origins[3], token_id=40))), 1)
    assert whole.distances == (4,) and whole.words == (40,)
    assert torch.allclose(whole.keys[1][0], average(found.keys[1]))
    assert torch.allclose(whole.embeddings[0], average(found.embeddings))


def test_several_virtual_tokens_are_clusters_of_values():
    centres = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
    noise = 0.01 * torch.randn(5, 1, 8, generator=torch.Generator().manual_seed(1))
    own = [0, 1, 0, 1, 0]
    values = centres[own] + noise
    origins = tuple(TokenOrigin(str(one), one, 0, 5 + one, "e") for one in own)
    found = merged(TokenPool({0: values}, {0: values}, values[:, 0], origins), 2)
    assert found.words == (0, 1) and found.distances == (5, 6)  # the larger cluster first
    assert torch.allclose(found.values[0][0], average(values[[0, 2, 4]]))


def test_settings_resolve_to_what_attention_is_shown():
    found = some_found(made("llama"))
    given = resolve_tokens(found, TokenConfig(layers=(0, 2), strength=log(3), tokens=2, distance=9))
    assert set(given.keys) == {0, 2} and given.distances == (9, 9) and given.bias == (log(3), log(3))
    assert resolve_tokens(found, TokenConfig(strength=-inf)) is None
    assert resolve_tokens(found, TokenConfig(form="text")) is None
    with pytest.raises(GrainsError, match="tokens=5, but 4 tokens were found"):
        resolve_tokens(found, TokenConfig(tokens=5))
    with pytest.raises(GrainsError, match="layer 7 is not among those of the found tokens, 0 to 2"):
        resolve_tokens(found, TokenConfig(layers=(7,)))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"strength": inf}, "strength=inf"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"tokens": 0}, "tokens=0"),
        ({"distance": -1}, "distance=-1"),
        ({"form": "kw"}, "unknown form 'kw'"),
        ({"form": "text", "strength": 1.0}, "where strength has no meaning"),
        ({"form": "embedding", "layers": (1,)}, "where layers has no meaning"),
    ],
)
def test_bad_settings_are_refused_in_one_line(given, why):
    with pytest.raises(GrainsError, match=why) as caught:
        TokenConfig(**given)
    assert "\n" not in str(caught.value)


def test_equal_found_tokens_are_one_virtual_token_and_that_is_said(caplog):
    values = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(3)).expand(4, -1, -1)
    origins = tuple(TokenOrigin("same", 7, 0, 5, "e") for _ in range(4))
    found = merged(TokenPool({0: values}, {0: values}, values[:, 0], origins), 2)
    assert found.words == (7,) and len(found.distances) == 1
    assert "tokens=2, but the found tokens fall into 1 distinct: 1 shown" in caplog.text
