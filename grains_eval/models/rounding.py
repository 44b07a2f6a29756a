"""How far apart two ways to the same log-probability may be."""

from __future__ import annotations

import math

import torch
from transformers import PreTrainedModel

# nats of one token; what matters (a mask, a position, an image left out) moves more
_PER_TOKEN = {torch.float64: 1e-7, torch.float32: 1e-4, torch.float16: 0.06}
_COARSE = 0.3


def rounding(model: PreTrainedModel, tokens: int) -> float:
    """Nats by which two sums of log-probabilities over `tokens` tokens may differ by rounding alone.

    Errors of single tokens are independent, so they grow with the square root. Quantised models count as bfloat16.
    """
    dtype: torch.dtype = model.dtype
    if getattr(model, "is_quantized", False):
        dtype = torch.bfloat16
    elif torch.is_autocast_enabled(model.device.type):
        dtype = torch.get_autocast_dtype(model.device.type)
    elif dtype == torch.float32 and model.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        dtype = torch.float16  # TensorFloat-32 keeps as many bits
    return _PER_TOKEN.get(dtype, _COARSE) * math.sqrt(max(1, tokens))
