"""Tiny models whose attention reads virtual tokens, and an independent implementation of what they must compute."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
import transformers as hf

from grains_eval.types import FoundTokens, TokenConfig, TokenOrigin, TokenPool
from grains_eval.virtual_tokens import ResolvedTokens
from tests import tiny

FAMILIES: dict[str, Callable[[], hf.PreTrainedModel]] = {
    **{name: tiny.TEXT[name] for name in ("llama", "qwen2", "mistral", "gemma2", "gemma3_text", "gpt2", "opt")},
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**tiny.LLAMA, head_dim=8)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**{**tiny.LLAMA, "hidden_size": 64}, partial_rotary_factor=0.5)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**tiny.LLAMA)),
}
PATHS = [(name, path) for name in FAMILIES for path in ("eager", "sdpa") if (name, path) != ("gemma2", "sdpa")]


def made(name: str, path: str = "eager") -> hf.PreTrainedModel:
    """A tiny model of a family with a way of attending."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FAMILIES[name]()
    tiny.fill(model)
    model.set_attn_implementation(path)
    return model.eval()


def some_tokens(
    model: hf.PreTrainedModel, count: int = 2, bias: float = 0.0, seed: int = 1, layers: tuple[int, ...] | None = None
) -> ResolvedTokens:
    """Random keys and values for every block."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    generator = torch.Generator().manual_seed(seed)
    chosen = range(config.num_hidden_layers) if layers is None else layers
    keys, values = (
        {layer: torch.randn(count, heads, width, generator=generator) for layer in chosen} for _ in range(2)
    )
    return ResolvedTokens(
        keys, values, tuple(3 + 2 * i for i in range(count)), tuple(bias + 0.3 * i for i in range(count))
    )


def _rotated(key: torch.Tensor, position: int, module: Any) -> torch.Tensor:
    """RoPE by its definition: pairs `(i, i + n / 2)` turn by `position * theta ** (-2 i / n)`."""
    config = module.config
    parameters = config.rope_parameters
    if "rope_theta" not in parameters:
        parameters = parameters[config.layer_types[module.layer_idx]]
    width = int(key.shape[-1] * parameters.get("partial_rotary_factor", 1.0))
    half = width // 2
    angle = position * float(parameters["rope_theta"]) ** (-torch.arange(half).double() * 2 / width)
    turned = key.double().clone()
    first, second = key[..., :half].double(), key[..., half:width].double()
    turned[..., :half] = first * angle.cos() - second * angle.sin()
    turned[..., half:width] = second * angle.cos() + first * angle.sin()
    return turned


@contextmanager
def by_hand(model: hf.PreTrainedModel, tokens: ResolvedTokens, is_rotary: bool) -> Generator[None, None, None]:
    """Attention written out query by query, head by head, with the tokens' keys and values concatenated to the others.

    One unpadded row without cache, so that a query's index is its position.
    """
    home: Any = sys.modules[type(model).__module__]
    original = home.eager_attention_forward

    def attend(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: Any = None, **keywords: Any
    ) -> Any:
        softcap = keywords.get("softcap")
        group = query.shape[1] // key.shape[1]
        layer = module.layer_idx
        output = torch.zeros(1, query.shape[2], query.shape[1], value.shape[-1])
        for index in range(query.shape[2]):
            for head in range(query.shape[1]):
                own = head // group
                keys, values = list(key[0, own].double()), list(value[0, own].double())
                masks = list(attention_mask[0, 0, index].double())
                if index > 0 and layer in tokens.keys:
                    for number, distance in enumerate(tokens.distances):
                        virtual = tokens.keys[layer][number, own]
                        keys.append(_rotated(virtual, index - distance, module) if is_rotary else virtual.double())
                        values.append(tokens.values[layer][number, own].double())
                        masks.append(torch.tensor(tokens.bias[number], dtype=torch.float64))
                logits = torch.stack(keys) @ query[0, head, index].double() * scaling
                if softcap is not None:
                    logits = softcap * (logits / softcap).tanh()
                weights = (logits + torch.stack(masks)).softmax(-1)
                output[0, index, head] = (weights @ torch.stack(values)).float()
        return output, None

    home.eager_attention_forward = attend
    try:
        yield
    finally:
        home.eager_attention_forward = original


def some_found(model: hf.PreTrainedModel, count: int = 4, seed: int = 2, **provenance: Any) -> FoundTokens:
    """Found tokens of random keys and values, the same words on both sides."""
    tokens = some_tokens(model, count, seed=seed)
    other = some_tokens(model, count, seed=seed + 50)
    width = model.get_input_embeddings().weight.shape[-1]
    soft = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    origins = tuple(TokenOrigin(f"w{i}", 40 + i % 2, i, 2 + i, f"e{i}", 3.0 - i) for i in range(count))
    return FoundTokens(
        TokenPool(tokens.keys, tokens.values, soft, origins),
        TokenPool(other.keys, other.values, soft.flip(0), origins),
        TokenConfig(),
        {"method": "found_tokens", **provenance},
    )
