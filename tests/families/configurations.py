"""Every decoder family that transformers knows, at toy size.

The families are those of its auto classes; `shrink` makes their configurations small. What its rules do not get right
stands in `CHANGES`, and what cannot be built at all in `ABSENT`, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import transformers as hf
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.families import images
from tests.families.shrink import SWITCH, shrunk

Kind = Literal["text", "encoder-decoder", "vision-language"]

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_LINEAR = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
_HYBRID = ["linear_attention", "hybrid", "linear_attention", "hybrid"]
_SLIDING = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_QWEN4 = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "ple_layer_ids": [1],
    "eos_token_id": 2,
}

_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_TEXT_MROPE = {"text_config.rope_parameters": _MROPE}
_VISION_WINDOW = {"vision_config.window_size": 56, "vision_config.fullatt_block_indexes": [1]}
_PINPOINTS = {"image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]}

# what a family's own defaults leave open, or what hangs together in a way that no rule knows
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blenderbot": {"encoder_layers": 4},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
        "layer_types": _SLIDING,
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "layer_types": _SLIDING},
    "gemma3n_text": {"layer_types": _SLIDING},
    "granitemoehybrid": {"layer_types": _LINEAR},
    "hrm_text": {"num_hidden_layers": 1, "num_layers_per_stack": None},
    "reformer": {"axial_pos_embds": False},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": _QWEN4,
    "qwen2_vl": _TEXT_MROPE,
    "qwen2_5_vl": {**_TEXT_MROPE, **_VISION_WINDOW},
    "glm4v": _TEXT_MROPE,
    "glm46v": _TEXT_MROPE,
    "exaone4_5": _VISION_WINDOW,
    "hyperclovax_vision_v2": _VISION_WINDOW,
    "gemma3": {"mm_tokens_per_image": 4},
    "llava_next": _PINPOINTS,
    "llava_next_video": _PINPOINTS,
    "llava_onevision": _PINPOINTS,
    "mllama": {
        "vision_config.intermediate_layers_indices": [0, 1],
        "vision_config.vision_output_dim": 96,
        "vision_config.num_global_layers": 1,
        "text_config.cross_attention_layers": [1],
    },
    "vipllava": {"vision_feature_layers": [-1, -2], "vision_feature_layer": [-1, -2]},
    "xlstm": {"chunk_size": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": _HYBRID, "attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": {
        "layers_block_type": _HYBRID,
        "hybrid_layer_ids": [1, 3],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
}


def configuration(model_type: str, changes: Mapping[str, Any] | None = None) -> hf.PreTrainedConfig:
    """The toy configuration of a model type."""
    default = CONFIG_MAPPING[model_type]()
    found = {**CHANGES.get(model_type, {}), **(changes or {})}
    if model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and vars(default).get("is_decoder") is False:
        found["is_decoder"] = True  # without it BERT and its like read both ways
    if model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        found = {**images.token_ids(model_type, vars(default)), **found}
    if default.is_encoder_decoder:
        found.setdefault("decoder_start_token_id", 2)
    return shrunk(default, found)


# fields that name a length at which a model changes what it does
_LENGTHS = re.compile(
    r".*window(_size|_len)?|.*chunk_(size|length)|original_max_position_embeddings|block_size|global_block_size"
    r"|local_attention|local_radius|index_topk|index_block_size|indexer_budget|log_scaling_n_floor|floor_scale"
    r"|relative_(attention_)?max_distance|rel_extent|conv_kernel|compress_ratio"
)


def lengths(config: hf.PreTrainedConfig) -> list[int]:
    """Every length that a configuration of text mentions, in tokens, ascending; at least one."""
    found = set[int]()

    def collect(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(str(key), inner)
        elif type(value) is int and 2 < value < 64 and _LENGTHS.fullmatch(name):
            found.add(value)

    for name, value in vars(config.get_text_config(decoder=True)).items():
        collect(name, value)
    return sorted(found) or [SWITCH]


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        name: The model type, with what was changed where it is a variant.
        kind: What the harness loads it as.
        model_type: Key of transformers' configurations.
        changes: Fields that differ from the toy configuration.
    """

    name: str
    kind: Kind
    model_type: str
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def model(self) -> hf.PreTrainedModel:
        """A model with random weights, the same on every call."""
        auto = {
            "text": hf.AutoModelForCausalLM,
            "encoder-decoder": hf.AutoModelForSeq2SeqLM,
            "vision-language": hf.AutoModelForImageTextToText,
        }[self.kind]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = auto.from_config(configuration(self.model_type, self.changes), dtype=torch.float32)
            fill(made)
        return made.eval()


def fill(model: hf.PreTrainedModel) -> None:
    """Weights of about unit gain, so that every input visibly moves the output; what is one-dimensional stays."""
    draw = torch.Generator().manual_seed(0)
    seen = set[int]()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.numel() == 1 and ("gate" in name or "alpha" in name):
                parameter.fill_(0.7)  # closed at first: no picture would pass
            if parameter.ndim < 2 or id(parameter) in seen or "A_log" in name:
                continue
            seen.add(id(parameter))
            stacked = parameter.ndim == 3 and "experts" in name
            fan_in = max(parameter.shape[1:]) if stacked else parameter[0].numel()
            parameter.normal_(0.0, fan_in**-0.5, generator=draw)


def _rope(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **parameters}}


_LONG = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 2.0, 4.0, 8.0], "factor": 4.0}
_WINDOW = {"use_sliding_window": True, "sliding_window": 8}
_SWITCH = {"original_max_position_embeddings": SWITCH}
# the same families where the length of a text changes how its positions are coded
VARIANTS = [
    Family("llama, dynamic rope", "text", "llama", {**_rope("dynamic", factor=4.0), "max_position_embeddings": SWITCH}),
    Family("llama, yarn rope", "text", "llama", _rope("yarn", factor=4.0, **_SWITCH)),
    Family(
        "llama, llama3 rope",
        "text",
        "llama",
        _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **_SWITCH),
    ),
    Family("llama, longrope", "text", "llama", _rope("longrope", **_LONG, **_SWITCH)),
    Family("phi3, longrope", "text", "phi3", {**_rope("longrope", **_LONG, **_SWITCH), **_SWITCH}),
    Family(
        "qwen2, sliding window",
        "text",
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": _SLIDING},
    ),
    Family("mistral, no window", "text", "mistral", {"sliding_window": None}),
]


def families(kind: Kind) -> list[Family]:
    """Every family of a kind, variants of rope included."""
    names = {
        "text": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "encoder-decoder": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "vision-language": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }[kind]
    # a type that is in several tables is loaded by the harness as a picture model, then as an encoder-decoder
    taken = set(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) if kind != "vision-language" else set[str]()
    taken |= set(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES) if kind == "text" else set[str]()
    variants = VARIANTS if kind == "text" else []
    return [*variants, *[Family(name, kind, name) for name in names if name not in taken]]
