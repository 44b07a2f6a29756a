"""Which tokens are masked: `T+` and `T-` (method step 3)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from grains_eval.attribution.registry import SELECTIONS, TokenDeltas, selection
from grains_eval.attribution.transfer import Transfer, best_of_examples, transfer_statistics
from grains_eval.errors import pick
from grains_eval.models.encoded import EncodedExample
from grains_eval.recipes import AttributionConfig
from grains_eval.types import Attribution, TokenSelection

logger = logging.getLogger(__name__)

# the share of examples that hold a token says little below this many examples
_ENOUGH_FOR_FREQUENCY = 8
_ENOUGH_FOR_AGREEMENT = 24

# of the examples whose tokens transfer best
_TRANSFER_SHARE = 0.5


def shared_tokens(encoded: Sequence[EncodedExample], threshold: float) -> frozenset[int]:
    """Ids of text tokens that stand in more than `threshold` of the prompts: template words, which crowd out causes."""
    if len(encoded) < _ENOUGH_FOR_FREQUENCY:
        return frozenset()
    counts = Counter(
        token
        for example in encoded
        for token in set(example.input_ids[~example.is_image.to(example.input_ids.device)].tolist())
    )
    return frozenset(token for token, count in counts.items() if count > threshold * len(encoded))


def of_modality(tokens: Attribution | EncodedExample, modality: str) -> Tensor:
    """`[T]`, true for candidates of `text`, of `image`, or of both (`joint`)."""
    if modality == "joint":
        return tokens.is_candidate
    return tokens.is_candidate & (tokens.is_image if modality == "image" else ~tokens.is_image)


def is_shared(encoded: EncodedExample, shared: frozenset[int]) -> Tensor:
    """`[T]`, true for text tokens whose id is in `shared`; an image's placeholders are all alike and never are."""
    is_in = torch.tensor([token in shared for token in encoded.input_ids.tolist()])
    return is_in & ~encoded.is_image.cpu()


def rank(
    attribution: Attribution, encoded: EncodedExample, config: AttributionConfig, shared: frozenset[int], k: int
) -> TokenSelection:
    """The `k` candidates of largest positive and of most negative score; a token of the wrong sign is never taken."""
    allowed = of_modality(attribution, config.modality) & ~is_shared(encoded, shared)
    scores = torch.where(allowed, attribution.scores, torch.zeros(()))
    order = scores.argsort(descending=True, stable=True).tolist()
    return TokenSelection(
        positive=tuple(i for i in order[:k] if scores[i] > 0),
        negative=tuple(i for i in order[::-1][:k] if scores[i] < 0),
    )


@selection("top_k")
def select_top_k(
    attributions: Sequence[Attribution],
    encoded: Sequence[EncodedExample],
    config: AttributionConfig,
    token_deltas: TokenDeltas,
    transfer: Transfer,
) -> list[TokenSelection]:
    """The paper's selection: the `top_k` tokens of each sign."""
    del token_deltas, transfer
    shared = shared_tokens(encoded, config.max_document_frequency)
    return [rank(a, e, config, shared, config.top_k) for a, e in zip(attributions, encoded, strict=True)]


@selection("agreement")
def select_by_agreement(
    attributions: Sequence[Attribution],
    encoded: Sequence[EncodedExample],
    config: AttributionConfig,
    token_deltas: TokenDeltas,
    transfer: Transfer,
) -> list[TokenSelection]:
    """Of the top `candidates` tokens of each sign, keep the `top_k` whose own delta agrees best with other examples'.

    Agreement of a token is its cosine with the best-matching candidate of the same sign in each other example,
    averaged over those examples and over layers. An extension of the paper: plain top-k also takes content words,
    real causes of one answer whose deltas point elsewhere.
    """
    del transfer
    if len(encoded) < _ENOUGH_FOR_AGREEMENT:
        logger.warning("selection by agreement needs %d examples; there are %d", _ENOUGH_FOR_AGREEMENT, len(encoded))
    shared = shared_tokens(encoded, config.max_document_frequency)
    several = config.candidates or 3 * config.top_k
    ranked = [rank(a, e, config, shared, several) for a, e in zip(attributions, encoded, strict=True)]
    kept: list[list[tuple[int, ...]]] = []
    for side in ("positive", "negative"):
        positions: list[tuple[int, ...]] = [getattr(selection, side) for selection in ranked]
        kept.append(_most_agreeing(positions, token_deltas, config.top_k))
    return [TokenSelection(positive, negative) for positive, negative in zip(*kept, strict=True)]


def _most_agreeing(positions: Sequence[tuple[int, ...]], token_deltas: TokenDeltas, k: int) -> list[tuple[int, ...]]:
    owners = torch.tensor([index for index, tokens in enumerate(positions) for _ in tokens])
    if not len(owners):
        return list(positions)
    deltas = torch.cat([token_deltas(index, tokens) for index, tokens in enumerate(positions) if tokens])
    unit = torch.nn.functional.normalize(deltas.float(), dim=-1)  # [n, L, H]
    cosines = torch.einsum("alh,blh->ab", unit, unit) / unit.shape[1]
    present = owners.unique()
    best = torch.stack([cosines[:, owners == owner].amax(dim=1) for owner in present], dim=1)  # [n, examples]
    others = (owners[:, None] != present[None]).float()
    agreement = (best * others).sum(dim=1) / others.sum(dim=1).clamp_min(1)
    chosen: list[tuple[int, ...]] = []
    for index, tokens in enumerate(positions):
        scores = agreement[owners == index]
        order = scores.argsort(descending=True, stable=True)[:k].tolist()
        chosen.append(tuple(tokens[i] for i in order))
    return chosen


@selection("transfer")
def select_by_transfer(
    attributions: Sequence[Attribution],
    encoded: Sequence[EncodedExample],
    config: AttributionConfig,
    token_deltas: TokenDeltas,
    transfer: Transfer,
) -> list[TokenSelection]:
    """Of the top `candidates` tokens of each sign, the `top_k` that move other examples most, of half the examples.

    A token's own keys and values are shown to the other prompts; what counts is the t statistic of the change of their
    preference, clusters left out. The other half of the examples selects nothing. An extension of the paper.
    """
    del token_deltas
    shared = shared_tokens(encoded, config.max_document_frequency)
    several = config.candidates or 3 * config.top_k
    ranked = [rank(a, e, config, shared, several) for a, e in zip(attributions, encoded, strict=True)]
    independent = units(encoded)
    sides: list[dict[int, list[int]]] = []
    for side, sign in (("positive", 1.0), ("negative", -1.0)):
        candidates = [(index, position) for index, one in enumerate(ranked) for position in getattr(one, side)]
        kept: dict[int, list[int]] = {}
        if candidates:
            tests = transfer_statistics(transfer(candidates), candidates, independent, sign)
            statistics = [test.statistic for test in tests]
            best = best_of_examples(candidates, statistics, len(encoded), _TRANSFER_SHARE, per_example=config.top_k)
            for index in best:
                kept.setdefault(candidates[index][0], []).append(candidates[index][1])
        sides.append(kept)
    return [TokenSelection(*(tuple(kept.get(index, ())) for kept in sides)) for index in range(len(encoded))]


def units(encoded: Sequence[EncodedExample]) -> list[Hashable]:
    """Per example, what it must not be tested on: its cluster, or its document."""
    return [
        ("cluster", one.example.cluster) if one.example.cluster is not None else ("document", one.example.doc_hash)
        for one in encoded
    ]


def select(
    attributions: Sequence[Attribution],
    encoded: Sequence[EncodedExample],
    config: AttributionConfig,
    token_deltas: TokenDeltas,
    transfer: Transfer,
) -> list[TokenSelection]:
    """Select tokens for all examples together.

    Raises:
        GrainsError: an unknown selection.
    """
    return pick(SELECTIONS, config.selection, "selection")(attributions, encoded, config, token_deltas, transfer)
