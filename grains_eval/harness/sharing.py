"""Whether a model's contexts can be shared: a cache of plain keys and values, a small trial that agrees."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from grains_eval.harness.plan import Cluster, group
from grains_eval.harness.scorer import Scorer, limits_for
from grains_eval.models.blocks import text_config

logger = logging.getLogger(__name__)

_known: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def shareable(model: PreTrainedModel) -> bool:
    """Whether shared contexts give this model's own numbers; tried once per model, on a few tokens.

    State-space and linear-attention layers, chunked attention, shared key-value layers, prompt tuning,
    encoder-decoder models and models with a cache or head of their own making fall back to plain scoring.
    """
    if model not in _known:
        reason = _obstacle(model)
        _known[model] = reason is None
        if reason is not None:
            logger.warning(
                "%s: contexts are not shared, %s; scoring takes the plain path", type(model).__name__, reason
            )
    return _known[model]


def _obstacle(model: PreTrainedModel) -> str | None:
    config = text_config(model)
    if model.config.is_encoder_decoder:
        return "it has an encoder"
    if model.get_output_embeddings() is None:
        return "it has no output embeddings"
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return "its attention is chunked"
    try:
        kinds = {type(layer) for layer in DynamicCache(config=config).layers}
        if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
            return "its cache holds more than keys and values"
        off = _trial(model)
    except Exception as error:  # an unknown family may fail anywhere; plain scoring is always right
        return f"a trial failed ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    # a wrong mask or position is off by far more than rounding
    allowed = 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.5
    return None if off <= allowed else f"a trial was off by {off:.1e} nats"


@torch.no_grad()
def _trial(model: PreTrainedModel) -> float:
    """Largest difference of shared and plain scores: contexts of two lengths, three continuations each."""
    middle = int(text_config(model).vocab_size) // 2  # ordinary tokens are there, special ones at the ends
    contexts = [[middle + i for i in range(9)], [middle - i for i in range(1, 6)]]
    answers = [[middle + 3, middle - 2, middle + 7], [middle - 4, middle + 1], [middle + 5]]
    requests = [(context, answer) for context in contexts for answer in answers]
    scorer = Scorer(model, [()], limits_for(model, 1, 16), softmax_dtype=torch.float32)
    scorer.run(Cluster(0, tuple(group(requests, 16)[0])))
    worst = 0.0
    for index, (context, answer) in enumerate(requests):
        ids = torch.tensor([context + answer], device=scorer.runner.device)
        logprobs = model(ids).logits[0, -len(answer) - 1 : -1].log_softmax(dim=-1, dtype=torch.float32)
        expected = logprobs.gather(-1, torch.tensor(answer, device=logprobs.device)[:, None]).sum()
        worst = max(worst, abs(scorer.results[0][index][0] - float(expected)))
    return worst
