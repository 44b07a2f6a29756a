"""How far apart two equally right ways to the same number may be.

Batched or alone, with shared or plain contexts, from embeddings or from token ids: the same sums are formed in another
order. `python -m benchmarks.rounding` measures what that makes of log-probabilities and of layer outputs
(`benchmarks/results/rounding.json`, docs/performance.md). Each tolerance stands above the largest difference found, by
up to ten times in half precision and up to twenty-five times in float32, since most models are larger than those
measured; what matters (a mask, a position, an image left out) moves more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Tolerance:
    """What rounding explains.

    Attributes:
        nats: Of the log-probability of one token.
        state: Of a layer's output, as a share of its norm.
    """

    nats: float
    state: float


TOLERANCES = {
    torch.float32: Tolerance(nats=1e-4, state=3e-5),
    torch.float16: Tolerance(nats=0.05, state=0.02),
    torch.bfloat16: Tolerance(nats=0.4, state=0.1),
}


def tolerance(model: PreTrainedModel, autocast: torch.dtype | None = None) -> Tolerance:
    """The tolerance of the numbers that a model computes with.

    Float64 counts as float32, since log-probabilities are read off in float32; quantised weights count as bfloat16.

    Args:
        model: The model.
        autocast: The type that its passes are cast to, where they are not run inside `torch.autocast` already.
    """
    dtype: torch.dtype = model.dtype
    if getattr(model, "is_quantized", False):
        dtype = torch.bfloat16
    elif autocast is not None:
        dtype = autocast
    elif torch.is_autocast_enabled(model.device.type):
        dtype = torch.get_autocast_dtype(model.device.type)
    elif dtype == torch.float32 and model.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        dtype = torch.float16  # TensorFloat-32 keeps as many bits
    if dtype == torch.float64:
        dtype = torch.float32
    return TOLERANCES.get(dtype, TOLERANCES[torch.bfloat16])


def rounding(model: PreTrainedModel, tokens: int, autocast: torch.dtype | None = None) -> float:
    """Nats by which two sums of log-probabilities over `tokens` tokens may differ and be the same number.

    Errors of single tokens are independent, so they grow with the root.
    """
    return tolerance(model, autocast).nats * math.sqrt(max(1, tokens))
