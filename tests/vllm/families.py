"""Tiny models of the families that vLLM and Hugging Face are compared on; attention on a CPU needs heads of 32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import transformers as hf
from safetensors.torch import load_file, save_file

from tests import tiny

LAYERS, WIDTH = 4, 64
_BASE = {
    **tiny.LLAMA,
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
_GEMMA = {**_BASE, "tie_word_embeddings": True, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64}
_MOE = {**_BASE, "num_experts_per_tok": 2}

FAMILIES: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_BASE)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_BASE)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**_BASE, head_dim=32)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_BASE, head_dim=32, sliding_window=None)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**_GEMMA)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**_GEMMA)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**_BASE)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**_BASE)),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**_MOE, num_local_experts=4)),
    "qwen3_moe": lambda: hf.Qwen3MoeForCausalLM(
        hf.Qwen3MoeConfig(**_MOE, num_experts=4, moe_intermediate_size=32, head_dim=32, decoder_sparse_step=1)
    ),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(**{key: value for key, value in _BASE.items() if key != "num_key_value_heads"})
    ),
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(**tiny.SPECIALS, n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_positions=tiny.CONTEXT)
    ),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**{**_BASE, "tie_word_embeddings": True})),
}

# a wider head's rotary dimensions, cut as Qwen2.5-VL's are
_MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}}
VISION: dict[str, Mapping[str, Any]] = {"llava": _BASE, "qwen2_5_vl": {**_BASE, **_MROPE}, "gemma3": _GEMMA}

# those whose layers vLLM lets one steer; Cohere's are refused
COMPARED = tuple(name for name in FAMILIES if name != "cohere")
# those of `VISION` whose images are read from left to right, as vLLM reads them on a CPU
SEEING = ("llava", "qwen2_5_vl")


def build(name: str, folder: Path) -> Path:
    """Save the tiny model `name` and its tokenizer to `folder`."""
    return tiny.save(FAMILIES[name](), tiny.tokenizer(bos=name in ("llama", "gemma2", "gemma3", "mistral")), folder)


def build_vision(name: str, folder: Path) -> Path:
    """Save the tiny vision-language model `name`, a key of `VISION`, and its processor to `folder`."""
    model, processor = tiny.VISION[name](**VISION[name])
    if name == "qwen2_5_vl":  # vLLM reads the sizes of videos before it is told that there are none
        processor = hf.Qwen2_5_VLProcessor(
            image_processor=hf.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=112 * 112),
            tokenizer=processor.tokenizer,
            video_processor=hf.Qwen2VLVideoProcessor(),
            chat_template=processor.chat_template,
        )
    if name == "gemma3":  # vLLM joins the line breaks around an image to the tokens that Gemma has for several
        processor.tokenizer.add_tokens(["\n" * count for count in (1, 2, 3, 4)])
    tiny.save(model, processor, folder)
    file = folder / "model.safetensors"
    # as published checkpoints are, and as vLLM wants them; transformers reads both
    save_file(
        {name.replace("vision_tower.", "vision_tower.vision_model."): each for name, each in load_file(file).items()},
        file,
        metadata={"format": "pt"},
    )
    return folder
