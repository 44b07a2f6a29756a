"""Find a Hugging Face model's text decoder, its layers and their attention output projections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from grains_eval.errors import GrainsError

# names under which a layer's attention keeps the projection that mixes its heads
_OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "wo")
# parts of the names under which configurations keep lengths at which a model may start to behave differently
_LENGTHS = ("window", "position", "chunk", "length", "seq_len", "ctx", "floor", "rope")
# parts of names that contain one of those but are not numbers of tokens: `rope_theta`, `max_window_layers`, ...
_NO_LENGTHS = ("theta", "factor", "beta", "layer", "pattern", "dim")


def find_decoder(model: PreTrainedModel) -> nn.Module:
    """The module that turns merged embeddings into hidden states: the text decoder, also in a vision-language model."""
    return model.get_decoder()


def text_config(model: PreTrainedModel):  # noqa: ANN201 - a PretrainedConfig of any family
    """The configuration of the text decoder."""
    return model.config.get_text_config(decoder=True)


def mentioned_lengths(config: Any) -> list[int]:
    """Numbers of tokens at which a model of this (text) configuration may start to behave differently, ascending."""

    def walk(values: Mapping[str, Any], all_count: bool) -> Iterator[int]:
        for key, value in values.items():
            name = str(key)
            counts = all_count or any(part in name for part in _LENGTHS)
            if isinstance(value, Mapping):
                yield from walk(value, counts)  # pyright: ignore[reportUnknownArgumentType]
            elif not counts or any(part in name for part in _NO_LENGTHS) or type(value) not in (int, float):
                continue
            elif value > 1 and value % 1 == 0:  # 2048.0 is a length too, infinity is not
                yield int(value)

    return sorted(set(walk(config.to_dict(), False)))


def find_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers `l = 0 ... L-1`.

    They are the shallowest `nn.ModuleList` under the decoder whose length is the text config's depth: the longest
    list would be the vision tower in LLaVA-1.5.

    Raises:
        GrainsError: no such list, or several equally shallow ones.
    """
    config = text_config(model)
    # T5 and ProphetNet name the decoder's depth so; their `num_hidden_layers` is the encoder's
    depth = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers
    found: list[nn.ModuleList] = []
    level = [find_decoder(model)]
    # level by level: a walk over all modules would cost as much as a decoded token of a small model
    while level and not found:
        level = list(dict.fromkeys(child for module in level for child in module.children()))
        found = [module for module in level if isinstance(module, nn.ModuleList) and len(module) == depth]
    if len(found) != 1:
        raise GrainsError(
            f"{type(model).__name__}: found {len(found)} lists of {depth} decoder layers where one is needed; "
            "this architecture cannot be steered yet"
        )
    return found[0]


def hidden_size(model: PreTrainedModel) -> int:
    """Width of the residual stream."""
    return int(text_config(model).hidden_size)


def find_attention_outputs(model: PreTrainedModel) -> list[nn.Module]:
    """Per layer, the projection whose input is the concatenated attention heads `[..., heads * head_dim]` (ITI's site).

    Raises:
        GrainsError: a layer has no attention whose output projection is known.
    """
    found: list[nn.Module] = []
    for index, layer in enumerate(find_layers(model)):
        matches = [
            module
            for name, module in layer.named_modules()
            if name.rsplit(".", 1)[-1] in _OUTPUT_PROJECTIONS and "attn" in name.replace("attention", "attn")
        ]
        if not matches:
            raise GrainsError(
                f"{type(model).__name__}: layer {index} has no attention output projection among "
                f"{', '.join(_OUTPUT_PROJECTIONS)}; head-level methods (iti, nl_iti) cannot be used here"
            )
        found.append(matches[0])
    return found


def hidden_of(output: Any) -> Tensor:
    """The hidden states in a layer's output: a tensor, or a tuple or list that starts with it.

    Raises:
        GrainsError: anything else, such as Reformer's pair of streams.
    """
    if isinstance(output, Tensor):
        return output
    if type(output) not in (tuple, list):
        raise GrainsError(f"its layers return a {type(output).__name__}; this architecture cannot be steered yet")
    return output[0]


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """A layer's output with other hidden states."""
    return hidden if isinstance(output, Tensor) else type(output)((hidden, *output[1:]))
