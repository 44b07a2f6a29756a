"""Tiny models of every family, written to a folder with nothing from the network.

Weights are random but large enough (unit-variance maps) that every input visibly moves the output.
The same name always gives the same bytes. `build_text(name, folder)` and `build_vision(name, folder)` save a
model with its tokenizer or processor; `TEXT` and `VISION` list the names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

VOCABULARY = 640
CONTEXT = 1024
# each becomes one token: those with a space inside a sentence, those of the second row at the start of a line
INSIDE = """what is the capital of france paris rome london answer yes no true false red blue green square
circle hello world picture in image how many cat dog good bad harm safe"""
STARTING = "What The Question Answer Is Hello"

CHAT_TEMPLATE = (
    "{%- for m in messages -%}{{ '<|' + m['role'] + '|>\n' }}"
    "{%- if m['content'] is string -%}{{ m['content'] }}"
    "{%- else -%}{%- for part in m['content'] -%}"
    "{%- if part['type'] == 'image' -%}@IMAGE@{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ eos_token + '\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}"
)


def tokenizer(
    special: Sequence[str] = (), *, bos: bool = False, image: str = "", **kwargs: Any
) -> hf.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: ids 0, 1, 2 are pad, bos, eos; `bos` makes it prepend one, as in Llama."""
    pieces = [*("Ġ" + word for word in INSIDE.split()), *STARTING.split()]
    # a word grows letter by letter from its start, so that no trainer's choice between ties matters
    merges = dict.fromkeys((word[:end], word[end]) for word in pieces for end in range(1, len(word)))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = dict.fromkeys(["<pad>", "<s>", "</s>", *letters, *(left + right for left, right in merges)])
    core = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, list(merges)))
    core.add_special_tokens(["<pad>", "<s>", "</s>", *special])
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    assert core.get_vocab_size() <= VOCABULARY
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
        **kwargs,
    )
    made.chat_template = CHAT_TEMPLATE.replace("@IMAGE@", image)
    return made


def fill(model: hf.PreTrainedModel, seed: int = 0) -> None:
    """Random weights of unit gain, from a fixed seed; norms and biases keep their initial values."""
    generator = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim >= 2 and id(parameter) not in seen:
                seen.add(id(parameter))
                fan_in = parameter[0].numel()
                parameter.normal_(0.0, fan_in**-0.5, generator=generator)


def save(model: hf.PreTrainedModel, companion: Any, folder: str | Path) -> Path:
    """Write model and tokenizer or processor to one folder."""
    fill(model)
    model.eval().save_pretrained(folder)
    companion.save_pretrained(folder)
    return Path(folder)


SPECIALS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": VOCABULARY}
LLAMA = {
    **SPECIALS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
GEMMA = {**LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
MOE = {**LLAMA, "num_experts_per_tok": 2}


STATES = {**SPECIALS, "hidden_size": 32, "num_hidden_layers": 3}
MIXED = ["linear_attention", "full_attention", "linear_attention"]


def _t5() -> hf.PreTrainedModel:
    config = hf.T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=4,
        num_decoder_layers=3,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    return hf.T5ForConditionalGeneration(config)


def _jamba() -> hf.PreTrainedModel:
    config = hf.JambaConfig(
        **LLAMA,
        num_experts=2,
        num_experts_per_tok=1,
        attn_layer_period=3,
        attn_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
    )
    return hf.JambaForCausalLM(config)


def _bart() -> hf.PreTrainedModel:
    config = hf.BartConfig(
        **SPECIALS,
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=CONTEXT,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    return hf.BartForConditionalGeneration(config)


TEXT: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**LLAMA)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**GEMMA)),
    "gemma3_text": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**{**GEMMA, "num_hidden_layers": 6})),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**LLAMA, head_dim=8, sliding_window=8)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**SPECIALS, n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT)),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(**{k: v for k, v in LLAMA.items() if k != "num_key_value_heads"})
    ),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            **SPECIALS,
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            word_embed_proj_dim=32,
            max_position_embeddings=CONTEXT,
        )
    ),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**MOE, num_local_experts=4)),
    "qwen3_moe": lambda: hf.Qwen3MoeForCausalLM(
        hf.Qwen3MoeConfig(**MOE, num_experts=4, moe_intermediate_size=32, head_dim=8, decoder_sparse_step=1)
    ),
    "bart": _bart,
    "t5": _t5,
    "openai_gpt": lambda: hf.OpenAIGPTLMHeadModel(
        hf.OpenAIGPTConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT)
    ),
    # states instead of keys and values, alone or between layers of attention
    "mamba": lambda: hf.MambaForCausalLM(hf.MambaConfig(**STATES, state_size=8, time_step_rank=4)),
    "rwkv": lambda: hf.RwkvForCausalLM(hf.RwkvConfig(**STATES, attention_hidden_size=32, intermediate_size=64)),
    "minimax": lambda: hf.MiniMaxForCausalLM(
        hf.MiniMaxConfig(**MOE, num_local_experts=2, head_dim=8, layer_types=MIXED, block_size=4)
    ),
    "jamba": _jamba,
    "lfm2": lambda: hf.Lfm2ForCausalLM(hf.Lfm2Config(**LLAMA, layer_types=["conv", "full_attention", "conv"])),
}

_WITH_BOS = {"llama", "gemma2", "gemma3_text", "mistral", "mixtral"}


def build_text(name: str, folder: str | Path) -> Path:
    """Save the tiny text model `name` (a key of `TEXT`) and its tokenizer to `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a few vectors keep their initial values
        return save(TEXT[name](), tokenizer(bos=name in _WITH_BOS), folder)


CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
SQUARE = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
PINPOINTS = [[28, 56], [56, 28], [56, 56]]


def _llava(**text: Any) -> tuple[hf.PreTrainedModel, Any]:
    words = tokenizer(["<image>"], bos=True, image="<image>", extra_special_tokens={"image_token": "<image>"})
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**CLIP),
        text_config=hf.LlamaConfig(**{**LLAMA, **text}),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    processor = hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessorPil(**SQUARE),
        tokenizer=words,
        patch_size=7,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=words.chat_template,
    )
    return hf.LlavaForConditionalGeneration(config), processor


def _llava_next(**text: Any) -> tuple[hf.PreTrainedModel, Any]:
    words = tokenizer(["<image>"], bos=True, image="<image>", extra_special_tokens={"image_token": "<image>"})
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**CLIP),
        text_config=hf.LlamaConfig(**{**LLAMA, **text}),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=16,
    )
    processor = hf.LlavaNextProcessor(
        image_processor=hf.LlavaNextImageProcessorPil(**SQUARE, image_grid_pinpoints=PINPOINTS),
        tokenizer=words,
        patch_size=7,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=words.chat_template,
    )
    return hf.LlavaNextForConditionalGeneration(config), processor


_QWEN_TOKENS = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]


def _qwen_tokenizer() -> hf.PreTrainedTokenizerFast:
    extra = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    return tokenizer(_QWEN_TOKENS, image=image, extra_special_tokens=extra)


def _qwen_ids(words: hf.PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return dict(zip(names, words.convert_tokens_to_ids(_QWEN_TOKENS), strict=True))


def _qwen2_5_vl(**text: Any) -> tuple[hf.PreTrainedModel, Any]:
    words = _qwen_tokenizer()
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {
        "hidden_size": 32,
        "out_hidden_size": text.get("hidden_size", LLAMA["hidden_size"]),
        "depth": 2,
        "num_heads": 2,
        "intermediate_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = hf.Qwen2_5_VLConfig(
        text_config={**LLAMA, "rope_parameters": rope, **text}, vision_config=vision, **_qwen_ids(words)
    )
    images = hf.Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=112 * 112)
    return hf.Qwen2_5_VLForConditionalGeneration(config), images_only(hf.Qwen2_5_VLProcessor, images, words)


def _qwen3_vl(**text: Any) -> tuple[hf.PreTrainedModel, Any]:
    words = _qwen_tokenizer()
    rope = {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "rope_theta": 10000.0,
        "mrope_interleaved": True,
    }
    vision = {
        "hidden_size": 32,
        "out_hidden_size": text.get("hidden_size", LLAMA["hidden_size"]),
        "depth": 3,
        "num_heads": 2,
        "intermediate_size": 64,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    text = {**LLAMA, "head_dim": 8, "rope_parameters": rope, **text}
    config = hf.Qwen3VLConfig(text_config=text, vision_config=vision, **_qwen_ids(words))
    images = hf.Qwen2VLImageProcessorPil(
        patch_size=16, min_pixels=32 * 32, max_pixels=128 * 128, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return hf.Qwen3VLForConditionalGeneration(config), images_only(hf.Qwen3VLProcessor, images, words)


def _gemma3(**text: Any) -> tuple[hf.PreTrainedModel, Any]:
    names = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    words = tokenizer(list(names.values()), bos=True, image=names["boi_token"], extra_special_tokens=names)
    ids = words.convert_tokens_to_ids
    config = hf.Gemma3Config(
        text_config={**GEMMA, "num_hidden_layers": 6, **text},
        vision_config={**CLIP, "image_size": 56},
        mm_tokens_per_image=16,
        boi_token_index=ids(names["boi_token"]),
        eoi_token_index=ids(names["eoi_token"]),
        image_token_index=ids(names["image_token"]),
    )
    processor = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
        tokenizer=words,
        image_seq_length=16,
        chat_template=words.chat_template,
    )
    return hf.Gemma3ForConditionalGeneration(config), processor


_TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
_IDEFICS_TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *_TILES]


def _idefics(kind: str, **text: Any) -> tuple[hf.PreTrainedModel, Any]:
    words = tokenizer(_IDEFICS_TOKENS, image="<image>")
    smol = kind == "smolvlm"
    config = (hf.SmolVLMConfig if smol else hf.Idefics3Config)(
        text_config={**LLAMA, "model_type": "llama", **text},
        vision_config={**CLIP, "image_size": 56},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    if smol:
        images = hf.SmolVLMImageProcessorPil(**sizes)
        processor = images_only(hf.SmolVLMProcessor, images, words, image_seq_len=16, chat_template=words.chat_template)
        return hf.SmolVLMForConditionalGeneration(config), processor
    processor = hf.Idefics3Processor(
        hf.Idefics3ImageProcessorPil(**sizes), words, image_seq_len=16, chat_template=words.chat_template
    )
    return hf.Idefics3ForConditionalGeneration(config), processor


# Their prompts cannot be continued twice: no cache of keys and values alone, or none at all.
UNSHARED = ("jamba", "lfm2", "mamba", "minimax", "openai_gpt", "rwkv", "t5")

# called with changes of the language model, none by default
VISION: dict[str, Callable[..., tuple[hf.PreTrainedModel, Any]]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2_5_vl": _qwen2_5_vl,
    "gemma3": _gemma3,
    "qwen3_vl": _qwen3_vl,
    "idefics3": lambda **text: _idefics("idefics3", **text),
    "smolvlm": lambda **text: _idefics("smolvlm", **text),
}


def build_vision(name: str, folder: str | Path) -> Path:
    """Save the tiny vision-language model `name` (a key of `VISION`) and its processor to `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return save(*VISION[name](), folder)


class _NoVideo:
    """Stands in for a video processor, which needs torchvision; no test passes a video."""

    model_input_names: tuple[str, ...] = ()
    _auto_class = None
    num_frames, fps, size = 0, 0, ("longest_edge",)  # SmolVLM reads them to render any chat

    def to_dict(self) -> dict[str, Any]:
        return {}

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        return None


def images_only(kind: type[hf.ProcessorMixin], images: Any, words: Any, **kwargs: Any) -> Any:
    """A processor whose class insists on a video processor, without one."""

    def check(self: Any, name: str, argument: Any) -> Any:
        if "video" in name:
            return None
        return super(made, self).check_argument_for_proper_class(name, argument)

    def to_dict(self: Any) -> dict[str, Any]:
        return {k: v for k, v in super(made, self).to_dict().items() if k != "video_processor"}

    made = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check, "to_dict": to_dict})
    kwargs.setdefault("chat_template", words.chat_template)
    return made(image_processor=images, tokenizer=words, video_processor=_NoVideo(), **kwargs)


_NEEDS_VIDEO = {
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
    "smolvlm": "SmolVLMProcessor",
}


def processor_without_video(folder: str | Path, **pixels: int) -> Any:
    """Load a processor saved by `build_vision` where `AutoProcessor` would ask for torchvision."""
    folder = Path(folder)
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    saved = json.loads((folder / "processor_config.json").read_text())
    words = hf.AutoTokenizer.from_pretrained(folder)
    images = hf.AutoImageProcessor.from_pretrained(folder, backend="pil", **pixels)
    extra = {"image_seq_len": saved["image_seq_len"]} if "image_seq_len" in saved else {}
    return images_only(getattr(hf, _NEEDS_VIDEO[kind]), images, words, **extra)


def allow_missing_torchvision(setattr_: Callable[[Any, str, Any], Any] = setattr) -> None:
    """Let `AutoProcessor` read the tiny Qwen and SmolVLM folders, which hold no video processor.

    Call it in a subprocess before lm_eval starts; the test session does it once for itself.
    """
    if find_spec("torchvision"):
        return
    original = hf.AutoProcessor.from_pretrained

    def from_pretrained(folder: Any, *args: Any, **kwargs: Any) -> Any:
        config = Path(str(folder)) / "config.json"
        if config.is_file() and json.loads(config.read_text()).get("model_type") in _NEEDS_VIDEO:
            pixels = {k: v for k, v in kwargs.items() if k in ("min_pixels", "max_pixels")}
            return processor_without_video(folder, **pixels)
        return original(folder, *args, **kwargs)

    setattr_(hf.AutoProcessor, "from_pretrained", staticmethod(from_pretrained))


def picture(seed: int = 0, size: tuple[int, int] = (80, 56)) -> Image.Image:
    """A noisy RGB picture of `(width, height)`: every seed another one."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (7, 10, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(coarse.numpy()).resize(size, Image.Resampling.BICUBIC)
