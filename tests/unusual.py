"""Tiny models whose contexts cannot be shared in the usual way: position scales that jump, pictures beside the text."""

from __future__ import annotations

from typing import Any

import transformers as hf

from tests.tiny import CLIP, LLAMA, fill, tokenizer

SWITCH = 64
"""Tokens from which the position scales of `longrope` and `dynamic` are others."""


def longrope() -> hf.PreTrainedModel:
    """A Phi-3 whose rotary frequencies switch at `SWITCH` tokens."""
    half = LLAMA["hidden_size"] // LLAMA["num_attention_heads"] // 2
    config = hf.Phi3Config(
        **{**LLAMA, "max_position_embeddings": 16 * SWITCH},
        original_max_position_embeddings=SWITCH,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * half,
            "long_factor": [2.0 + 2 * i for i in range(half)],
            "original_max_position_embeddings": SWITCH,
        },
    )
    return _filled(hf.Phi3ForCausalLM(config))


def dynamic() -> hf.PreTrainedModel:
    """A Llama whose rotary frequencies depend on the longest row past `SWITCH` tokens, and on those before it."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    return _filled(
        hf.LlamaForCausalLM(hf.LlamaConfig(**{**LLAMA, "max_position_embeddings": SWITCH}, rope_parameters=rope))
    )


def _filled(model: hf.PreTrainedModel) -> hf.PreTrainedModel:
    fill(model)
    return model.eval()


def mllama() -> tuple[hf.PreTrainedModel, Any]:
    """A Llama 3.2 Vision: pictures enter through cross-attention in its second layer."""
    names = {"image_token": "<|image|>", "python_token": "<|python_tag|>"}
    words = tokenizer(list(names.values()), bos=False, image="<|image|>", extra_special_tokens=names)
    text = {**LLAMA, "num_hidden_layers": 4, "cross_attention_layers": [1]}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "attention_heads": 4,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "vision_output_dim": 64,
        "intermediate_layers_indices": [0],
        "image_size": 28,
        "patch_size": 7,
        "max_num_tiles": 4,
    }
    config = hf.MllamaConfig(
        text_config={**text, "rope_parameters": rope},
        vision_config=vision,
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
    )
    processor = hf.MllamaProcessor(
        hf.MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=4),
        words,
        chat_template=words.chat_template,
    )
    model = hf.MllamaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):  # at zero no picture would come through
            parameter.data.fill_(1.0)
    return model, processor


def paligemma() -> tuple[hf.PreTrainedModel, Any]:
    """A PaliGemma: attention goes both ways within the prompt, and the processor writes a line end after it."""
    names = {"image_token": "<image>"}
    words = tokenizer(["<image>"], bos=False, image="<image>", extra_special_tokens=names)
    text = {**LLAMA, "head_dim": 8}
    config = hf.PaliGemmaConfig(
        text_config={**text, "model_type": "gemma"},
        vision_config={**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False},
        projection_dim=32,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    images = hf.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(images, words, chat_template=words.chat_template)
    return hf.PaliGemmaForConditionalGeneration(config), processor
