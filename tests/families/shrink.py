"""Shrink any configuration of transformers to toy size: a rule for every kind of number, not a size for every family.

A configuration is read as its class's defaults give it, every field of it goes through `SIZES`, lists with an entry for
each layer keep the layers that show every kind once, and lengths at which a model changes its ways (windows, chunks,
rope switches) become small enough for a test to cross. What no rule gets right stands in `exceptions`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from tests.tiny import VOCABULARY

LAYERS = 4
HIDDEN = 32
HEADS = 4
HEAD_DIM = 8
POSITIONS = 128  # longer than any request
SWITCH = 24  # where a rope of two ranges changes from one to the other
WINDOW = 8
CHUNK = 16

# the first pattern that matches a field's whole name decides
SIZES: Sequence[tuple[str, int]] = (
    (r"(type|task_type|segment)_vocab_size|segment_types|prompt_types", 4),
    (r".*vocab_size(_base|_per_layer_input)?|encoder_hash_byte_group_vocab|src_vocab_size|tgt_vocab_size", VOCABULARY),
    (r"original_max_position_embeddings|log_scaling_n_floor|floor_scale", SWITCH),
    (r"n_positions|n_ctx|max_seq_len|context_length|model_max_length|max_length|seq_len", POSITIONS),
    (r"max_(\w+_)?position_embeddings|max_(source|target)_positions|max_pos_emb|rel_extent", POSITIONS),
    (r"(keep_|local_)?(sliding_)?(attention_|local_)?window(_size|_len)?|local_attention", WINDOW),
    (r"local_attention_window_len|local_radius|index_topk|n_window|n_window_infer", WINDOW),
    (r"attention_chunk_size|max_inference_chunksize", CHUNK),
    (r"(mamba_)?chunk_size|(lsh|local)_attn_chunk_length|block_size|global_block_size|index_block_size", 8),
    (r"index_topk_blocks|index_kpool", 2),
    (r"num_(hidden_)?layers|n_layers?|(encoder|decoder|text|speech_encoder|t2u_encoder|t2u_decoder)_layers", LAYERS),
    (r"num_(encoder|decoder)_layers|layers|num_blocks|max_window_layers|moe_layer_end_index", LAYERS),
    (r"num_layers_per_stack|n_layers_per_attn_res_block", 2),
    (r"num_kv_shared_layers|num_sparse_(en|de)coder_layers", 2),
    (r"depth|num_global_layers|resampler_depth|num_lstm_layers|conf_num_hidden_layers", 2),
    (r"aligner_num_add_layers|num_adapter_layers", 1),
    (r"(mlp_)?(dense_)?(moe_)?(shared_)?(experts?_)?(shared_expert_)?intermediate_size(_mlp)?", 64),
    (r"(expert_)?ffn_hidden_size|(\w+_)?ffn_dim|d_ff|dff|dim_ff|feed_forward_size|d_inner|mlp_dim|n_inner", 64),
    (r"shared_intermediate_size|share_expert_dim|ffn_round_up_to_multiple_of|block_multiple_of", 32),
    (r"\w*lora_rank|adapter_rank|hc_lowrank|laurel_rank|gated_norm_rank|time_step_rank|mamba_dt_rank", 8),
    (r"qk_head_dim", 2 * HEAD_DIM),
    (r"\w*head_dim|d_kv|d_head|dim_head|kv_channels|attention_head_size|dim_model_base", HEAD_DIM),
    (r"mamba_d_head|mamba_headdim|query_pre_attn_scalar|attention_multiplier", HEAD_DIM),
    (r"(\w+_)?(num_|n_)?(attention_)?(n_)?heads?|linear_num_\w*heads|num_query_groups|index_n_heads", HEADS),
    (r"num_(en|de)coder_attention_heads|(en|de)coder_attention_heads|swa_num_attention_heads", HEADS),
    (r"hidden_size_per_layer_input|ple_embed_dim|codebook_dim", 16),
    (r"(\w+_)?hidden_(size|dim)(_global)?|d_model|n_embd|emb_dim|embed_dim|dim|hidden_dim|model_dim", HIDDEN),
    (r"(\w+_)?embedding_(size|dim)|word_embed_proj_dim|attention_hidden_size|lru_width|\w*_embed_dim", HIDDEN),
    (r"(\w+_)?projection_dim|projector_(in|out)put_dim|(\w+_)?output_dim|adapter_out_dim|out_channels", HIDDEN),
    (r"(mamba_d_)?state(_size)?|ssm_state_size|mamba_d_state|state_size", 8),
    (r"mamba_d_ssm", 2 * HIDDEN),
    (r"rotary_dim", HEAD_DIM // 2),
    (r"(moe_)?num_(local_)?experts|n_routed_experts|moe_num_experts|zero_expert_num", 4),
    (r"num_experts_per_tok(en)?|moe_(top_?)?k", 2),
    (r"n_group|topk_group|num_expert_group|n_groups|o_groups|mamba_ngroups", 1),
    (r"n_shared_experts|num_shared_experts|moe_num_shared_experts|first_k_dense_replace|num_dense_layers", 1),
    (r"num_nextn_predict_layers", 0),
    (r"relative_attention_num_buckets|num_buckets|position_bias_num_buckets", 8),
    (r"relative_(attention_)?max_distance|position_bias_max_distance", 16),
    (r"latent_query_num|num_query_tokens|resampler_n(um)?_latents|prompt_length", 4),
    (r"router_hidden_size|prompt_mid_dim|audio_hidden_size", 16),
    (r"heads_per_ngram|split_ngram_parts", 2),
)  # fmt: skip
_RULES = [(re.compile(pattern), size) for pattern, size in SIZES]
# numbers of layers, of which a configuration of several parts has several
_DEPTHS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "num_decoder_layers",
    "num_blocks",
)
_KEY_VALUE_HEADS = (
    ("num_key_value_heads", "num_attention_heads"),
    ("num_kv_heads", "num_attention_heads"),
    ("swa_num_key_value_heads", "swa_num_attention_heads"),
    ("kv_n_heads", "n_heads"),
    ("linear_num_key_heads", "linear_num_value_heads"),
)
# lists of layers by index
_INDICES = re.compile(r"full_attn_idxs|moe_layers|hybrid_layer_ids|cross_attention_layers|mlp_only_layers")


def smaller(name: str, value: int) -> int:
    """The toy size of an integer field; as it is where no rule says otherwise, and never larger than it was."""
    for pattern, size in _RULES:
        if pattern.fullmatch(name):
            return min(size, value) if value > 0 else value
    return value


def kept_layers(config: PreTrainedConfig) -> list[int]:
    """Indices of at most `LAYERS` layers (more only where there are more kinds) that show every kind of layer."""
    depth = next((getattr(config, name) for name in _DEPTHS if isinstance(getattr(config, name, None), int)), 0)
    lists = [
        value
        for name, value in vars(config).items()
        if isinstance(value, list | tuple) and len(value) == depth and all(isinstance(one, str | int) for one in value)
    ]
    members = [set(value) for name, value in vars(config).items() if _INDICES.fullmatch(name) and value]
    kinds = [(*(str(one[i]) for one in lists), *(i in one for one in members)) for i in range(depth)]
    kept = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    return sorted([*kept, *[i for i in range(depth) if i not in kept][: max(0, LAYERS - len(kept))]])


def shrunk(config: PreTrainedConfig, changes: Mapping[str, Any] | None = None) -> PreTrainedConfig:
    """The same configuration at toy size.

    Args:
        config: One with its class's defaults.
        changes: Fields that no rule gets right, by name; `part.name` for those of a nested configuration.
    """
    changes = dict(changes or {})
    depth = next((getattr(config, name) for name in _DEPTHS if isinstance(getattr(config, name, None), int)), 0)
    kept = kept_layers(config)
    fields = {name: value for name, value in vars(config).items() if not _internal(name)}
    for name, value in list(fields.items()):
        if isinstance(value, PreTrainedConfig):
            inner = {key.partition(".")[2]: new for key, new in changes.items() if key.startswith(f"{name}.")}
            fields[name] = shrunk(value, inner)
        elif name == "head_dim" and value is None:
            fields[name] = HEAD_DIM
        elif isinstance(value, bool) or value is None:
            continue
        elif _INDICES.fullmatch(name):
            fields[name] = [new for new, old in enumerate(kept) if old in value]
        elif name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
            fields[name] = {"bos_token_id": 1, "pad_token_id": 0}.get(name, 2)
        elif isinstance(value, int):
            fields[name] = len(kept) if name in _DEPTHS and value == depth else smaller(name, value)
        elif isinstance(value, list | tuple) and depth and len(value) == depth:
            fields[name] = [smaller(name, value[i]) if type(value[i]) is int else value[i] for i in kept]
    _agree(fields, config)
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(fields.get(name), dict):
            fields[name] = _rope(fields[name], fields.get("head_dim") or HEAD_DIM)
    if isinstance(fields.get("patch_size"), int) and isinstance(fields.get("image_size"), int):
        fields["image_size"] = 4 * fields["patch_size"]
    fields |= {name: value for name, value in changes.items() if "." not in name}
    fields["torch_dtype"] = None
    return type(config)(**{name: value for name, value in fields.items() if name != "torch_dtype"})


def _internal(name: str) -> bool:
    return (
        name.startswith("_")
        or name in ("id2label", "label2id", "transformers_version", "dtype", "architectures")
        or name.startswith("ignore_keys")
    )


def _agree(fields: dict[str, Any], before: PreTrainedConfig) -> None:
    """Numbers that hang together: fewer key-value heads where there were fewer, heads that fill their width."""
    for name, of in _KEY_VALUE_HEADS:
        if isinstance(fields.get(name), int) and isinstance(fields.get(of), int):
            many = vars(before)[name] == vars(before)[of]
            fields[name] = fields[of] if many else 1 if fields[name] == 1 else fields[of] // 2
    expand = next((fields[name] for name in ("expand", "mamba_expand") if name in fields), None)
    width = next((fields[n] for n in ("mamba_d_head", "mamba_headdim", "mamba_head_dim") if n in fields), HEAD_DIM)
    for name in (
        "mamba_n_heads",
        "n_mamba_heads",
        "mamba_num_heads",
        *(["num_heads"] if "state_size" in fields else []),
    ):
        if isinstance(fields.get(name), int) and expand:
            fields[name] = int(expand * HIDDEN) // width if isinstance(width, int) else fields[name]
    if isinstance(fields.get("qk_nope_head_dim"), int) and isinstance(fields.get("qk_rope_head_dim"), int):
        fields["qk_head_dim"] = fields["qk_nope_head_dim"] + fields["qk_rope_head_dim"]


def _rope(parameters: dict[str, Any], head_dim: int) -> dict[str, Any]:
    """Rope parameters, one set or one for each kind of layer, for a head of toy size."""
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, dict):
            found[name] = _rope(value, head_dim)
        elif name == "mrope_section":
            half = int(head_dim * parameters.get("partial_rotary_factor", 1.0)) // 2
            found[name] = [half - 2 * (half // 3), half // 3, half // 3]
        elif name == "original_max_position_embeddings":
            found[name] = SWITCH
        elif name in ("short_factor", "long_factor"):
            found[name] = value[: head_dim // 2]
        else:
            found[name] = value
    return found
