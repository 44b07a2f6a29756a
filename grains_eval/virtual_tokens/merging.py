"""Found tokens averaged into the virtual tokens that a model is shown."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from math import inf

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from grains_eval.errors import GrainsError
from grains_eval.types import FoundTokens, TokenConfig, TokenPool
from grains_eval.virtual_tokens.columns import ResolvedTokens

logger = logging.getLogger(__name__)


@lru_cache(maxsize=64)
def _say(text: str) -> None:
    """A warning, once."""
    logger.warning("%s", text)


@dataclass(frozen=True, eq=False)
class Merged:
    """`N` tokens, each the average of some found ones.

    Attributes:
        keys: `{layer: [N, heads, width]}`, before rotary position embedding.
        values: `{layer: [N, heads, width]}`.
        embeddings: `[N, hidden]`.
        distances: Upper median of the averaged tokens' distances, each.
        words: Id of the most frequent word among the averaged tokens, each; -1 where none has an id.
    """

    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    embeddings: Tensor
    distances: tuple[int, ...]
    words: tuple[int, ...]


def merged(pool: TokenPool, count: int) -> Merged:
    """Average found tokens into `count` virtual ones; several are clusters of their values (k-means, fixed seed).

    Found tokens that are alike stand in one group: then fewer virtual tokens are made, which is said once.

    Raises:
        GrainsError: more virtual tokens than found ones.
    """
    if count > len(pool.origins):
        raise GrainsError(f"tokens={count}, but {len(pool.origins)} tokens were found; give that many or fewer")
    groups = _groups(pool, count)
    if len(groups) < count:
        _say(f"tokens={count}, but the found tokens fall into {len(groups)} distinct: {len(groups)} shown")
    distances, words = list[int](), list[int]()
    for group in groups:
        ordered = sorted(pool.origins[index].distance for index in group)
        distances.append(ordered[len(ordered) // 2])
        ids = Counter(pool.origins[index].token_id for index in group if pool.origins[index].token_id >= 0)
        words.append(ids.most_common(1)[0][0] if ids else -1)
    keys, values = (
        {layer: torch.stack([average(states[group]) for group in groups]) for layer, states in part.items()}
        for part in (pool.keys, pool.values)
    )
    embeddings = torch.stack([average(pool.embeddings[group]) for group in groups])
    return Merged(keys, values, embeddings, tuple(distances), tuple(words))


def average(states: Tensor) -> Tensor:
    """Mean over `[M, ..., width]` with its norm restored to the median norm of what was averaged, per head."""
    mean = states.mean(dim=0)
    norm = states.norm(dim=-1).median(dim=0).values
    return mean * (norm / mean.norm(dim=-1).clamp_min(1e-9))[..., None]


def _groups(pool: TokenPool, count: int) -> list[list[int]]:
    everything = list(range(len(pool.origins)))
    if count == 1:
        return [everything]
    features = torch.cat([torch.nn.functional.normalize(pool.values[layer].flatten(1)) for layer in pool.layers], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal tokens, which `merged` speaks of
        labels = KMeans(count, n_init="auto", random_state=0).fit_predict(features.numpy()).tolist()
    groups = [[index for index in everything if labels[index] == label] for label in range(count)]
    return sorted((group for group in groups if group), key=lambda group: (-len(group), group))


def resolve_tokens(found: FoundTokens, config: TokenConfig) -> ResolvedTokens | None:
    """What attention is shown of form `kv`; None where nothing is (strength minus infinity, or another form).

    Raises:
        GrainsError: more virtual tokens than found ones, or a layer that they have no keys for.
    """
    if config.form != "kv" or config.strength == -inf:
        return None
    layers = found.positive.layers if config.layers is None else config.layers
    missing = [layer for layer in layers if layer not in found.positive.keys]
    if missing:
        raise GrainsError(
            f"layer {missing[0]} is not among those of the found tokens, {found.positive.layers[0]} to "
            f"{found.positive.layers[-1]} (layers count from 0)"
        )
    if not layers:
        return None
    tokens = merged(found.positive, config.tokens)
    return ResolvedTokens(
        {layer: tokens.keys[layer] for layer in layers},
        {layer: tokens.values[layer] for layer in layers},
        tokens.distances if config.distance is None else (config.distance,) * len(tokens.distances),
        (float(config.strength),) * len(tokens.distances),
    )
