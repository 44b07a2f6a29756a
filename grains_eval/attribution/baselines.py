"""The Integrated Gradients baseline `x'`, which is also the mask embedding (method steps 2 and 4)."""

from __future__ import annotations

import logging
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from grains_eval.models.encoded import EncodedExample
from grains_eval.models.layers import text_config
from grains_eval.recipes import AttributionConfig

logger = logging.getLogger(__name__)

# a pad row below this share of the median row norm was never trained (torch zeroes padding_idx rows)
_UNTRAINED = 1e-2
_SAMPLED = 4096  # rows sampled for the median norm; reading the whole table would slow builds down


@torch.no_grad()
def text_baseline(model: PreTrainedModel, kind: str) -> Tensor:
    """`[H]` float32: the embedding that stands for an absent text token.

    `pad` falls back to `mean` where the model has no trained pad embedding: with RMSNorm the origin is no baseline
    (completeness errors of 65-520 %, each norm multiplies the gradient by up to 1/sqrt(eps) there).
    """
    embed = cast(nn.Embedding, model.get_input_embeddings())
    weight: Tensor = embed.weight
    scale = float(getattr(embed, "scalar_embed_scale", getattr(embed, "embed_scale", 1.0)))
    if kind == "zero":
        return torch.zeros(weight.shape[1], device=weight.device)
    if kind == "pad":
        configs = (text_config(model), model.config)
        pad = next((pad for each in configs if (pad := getattr(each, "pad_token_id", None)) is not None), None)
        if pad is not None and 0 <= pad < len(weight):
            sampled = weight[:: max(1, len(weight) // _SAMPLED)]
            norms = torch.linalg.vector_norm(sampled, dim=1, dtype=torch.float32)
            row = weight[pad].float()
            if row.norm() >= _UNTRAINED * norms.median():
                return row * scale
        logger.info("no trained pad embedding: the mean embedding is the baseline")
    return weight.mean(dim=0, dtype=torch.float32) * scale


def prompt_baseline(model: PreTrainedModel, encoded: EncodedExample, config: AttributionConfig) -> Tensor:
    """`[T, H]` float32: `x'` for every prompt token, text and visual."""
    absent = text_baseline(model, config.baseline).to(encoded.embeddings.device)
    # text has no deepstack features, which follow the embedding where a model has them
    absent = functional.pad(absent, (0, encoded.embeddings.shape[-1] - len(absent)))
    rows = absent.repeat(len(encoded.input_ids), 1)
    if encoded.visual_baseline is not None:
        is_image = encoded.is_image.to(rows.device)
        rows[is_image] = encoded.visual_baseline.to(rows)[is_image]
    return rows
