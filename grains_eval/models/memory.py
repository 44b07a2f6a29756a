"""How much fits: an estimate before a pass starts, and halving when it was wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import psutil
import torch
from transformers import PreTrainedModel

from grains_eval.errors import GrainsError
from grains_eval.models.encoded import EncodedExample
from grains_eval.models.layers import text_config

logger = logging.getLogger(__name__)

T = TypeVar("T")
SHARE = 0.5  # of free memory that a pass may take


def free_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def bytes_per_row(model: PreTrainedModel, encoded: EncodedExample) -> int:
    """Estimated peak of one row of embeddings with gradient, in bytes.

    Per token and layer: about 16 hidden-sized and 4 feed-forward-sized tensors kept for the backward pass, and the
    attention weights where they are materialised; at most three float32 rows of logits per response token.
    """
    config = text_config(model)
    width = torch.finfo(encoded.embeddings.dtype).bits // 8
    responses = len(encoded.chosen) + len(encoded.rejected)
    tokens = len(encoded.input_ids) + responses
    hidden = int(config.hidden_size)
    inner = _largest(config, "intermediate_size", 4 * hidden)
    heads = _largest(config, "num_attention_heads", 1)
    layers = int(config.num_hidden_layers)
    per_token = layers * (16 * hidden + 4 * inner) * width
    return tokens * per_token + layers * heads * tokens**2 * 4 + 3 * 4 * responses * int(config.vocab_size)


def _largest(config: Any, name: str, default: int) -> int:
    """A size of a configuration; layers may differ in it, and some configurations then refuse to be asked for it."""
    found = vars(config).get(config.attribute_map.get(name, name)) or default
    return max(map(int, found)) if isinstance(found, list | tuple) else int(found)


def rows_that_fit(model: PreTrainedModel, encoded: EncodedExample, most: int) -> int:
    """Rows of embeddings with gradient that half of the free memory holds, between 1 and `most`."""
    free = free_bytes(encoded.embeddings.device)
    each = bytes_per_row(model, encoded)
    rows = max(1, min(most, int(SHARE * free / each)))
    logger.info(
        "example %s: about %.0f MiB per node, %.0f MiB free: %d of %d nodes per pass",
        encoded.example.id, each / 2**20, free / 2**20, rows, most,
    )  # fmt: skip
    return rows


def run_with_halving(run: Callable[[int], T], rows: int) -> T:
    """Call `run(rows)`, halving `rows` each time the device is out of memory.

    Raises:
        GrainsError: a single row does not fit.
    """
    while True:
        try:
            return run(rows)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not is_out_of_memory(error):
                raise
            if rows == 1:
                raise GrainsError(
                    "out of memory with one row; use a shorter prompt, a smaller dtype or more devices"
                ) from error
        # the failed pass frees its tensors only once the handler is left
        rows //= 2
        logger.warning("out of memory; going on with %d rows per pass", rows)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device ran out of memory, or the CPU's allocator, which has no error class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
