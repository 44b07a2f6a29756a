"""Find the decoder layers of a model that vLLM has loaded, and give them their tables."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from grains_eval.vllm.layers import Tables, new_tables, wrap
from grains_eval.vllm.settings import Setting

CONFIG_KEY = "grains_eval"  # in vLLM's `additional_config`, which is part of the key of its compiled code
ATTRIBUTE = "grains_tables"
V2_VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"


def engine_config(rows: int, stages: int, served: bool = False) -> dict[str, Any]:
    """What an engine must be told to be steerable: the shapes of its tables, and which code they were made by.

    Args:
        rows: Settings at a time.
        stages: Steerings of one setting.
        served: Whether every rank loads the vectors of `serve` by itself.
    """
    code = hashlib.sha256(b"".join((Path(__file__).parent / name).read_bytes() for name in ("layers.py", "attach.py")))
    return {CONFIG_KEY: {"rows": rows, "stages": stages, "served": served, "code": code.hexdigest()[:16]}}


def steering_config(vllm_config: Any) -> Mapping[str, Any] | None:
    """What `engine_config` put into an engine's configuration; None where it is not to be steered."""
    additional = vllm_config.additional_config
    return additional.get(CONFIG_KEY) if isinstance(additional, dict) else None


def attach(model: nn.Module, vllm_config: Any) -> Tables | None:
    """Give the decoder layers of a loaded model their tables; None where the engine is not to be steered.

    Whatever is in the way is noted in `Tables.obstacle`, since an error here would end a rank with a traceback.
    """
    wanted = steering_config(vllm_config)
    if wanted is None:
        return None
    tokens = int(vllm_config.scheduler_config.max_num_batched_tokens)
    tables = new_tables(int(wanted["rows"]), int(wanted["stages"]), tokens, _device(model))
    setattr(model, ATTRIBUTE, tables)
    tables.obstacle = _obstacle(vllm_config)
    if tables.obstacle:
        return tables
    text = vllm_config.model_config.hf_text_config
    depth, hidden = int(text.num_hidden_layers), int(text.hidden_size)
    found = find_layers(model, depth)
    if len(found) != 1:
        tables.obstacle = f"found {len(found)} lists of {depth} decoder layers where one is needed"
        return tables
    tables.place = next(name for name, module in model.named_modules() if module is found[0])
    for index, layer in enumerate(found[0]):
        if type(layer).__name__ != "PPMissingLayer":  # another pipeline rank's
            wrap(layer, index, hidden, tables)
    if wanted["served"]:
        from grains_eval.vllm.serve import registered

        settings = [each.setting for each in registered().values()]
        tables.obstacle = _misfit(settings, depth, hidden)
        if not tables.obstacle:
            tables.load(settings)
    return tables


def _misfit(settings: Sequence[Setting], depth: int, hidden: int) -> str:
    """What of the served vectors does not go into layers of this model; empty where all of it does."""
    for setting in settings:
        for stage in setting.stages:
            for layer, delta in stage.deltas.items():
                if layer >= depth:
                    return (
                        f"the served vectors steer layer {layer} but it has {depth}; they were built for another model"
                    )
                if delta.shape[-1] != hidden:
                    return (
                        f"the served vectors have width {delta.shape[-1]} at layer {layer} but it needs {hidden}; "
                        "they were built for another model"
                    )
    return ""


def find_layers(model: Any, depth: int) -> list[nn.ModuleList]:
    """The shallowest lists of `depth` modules under the language model: its decoder layers, where it is one list."""
    language = getattr(model, "get_language_model", None)
    level: list[nn.Module] = [model if language is None else language()]
    found: list[nn.ModuleList] = []
    while level and not found:
        level = list(dict.fromkeys(child for module in level for child in module.children()))
        found = [module for module in level if isinstance(module, nn.ModuleList) and len(module) == depth]
    return found


def _device(model: nn.Module) -> Any:
    return next(parameter.device for parameter in model.parameters() if parameter.device.type != "meta")


def _obstacle(vllm_config: Any) -> str:
    """What of an engine's configuration steering does not go with."""
    if vllm_config.model_config.is_encoder_decoder:
        return "encoder-decoder models are not steered in vLLM; use grains_hf"
    if vllm_config.model_config.runner_type != "generate":
        return "only models that generate are steered; drop runner=pooling"
    if getattr(vllm_config, "use_v2_model_runner", False) and os.environ.get(V2_VARIABLE) != "1":
        return f"its configuration needs vLLM's V2 model runner; leave that out, or steer it with {V2_VARIABLE}=1"
    if vllm_config.speculative_config is not None:
        return "speculative decoding drafts with another, unsteered model; drop speculative_config"
    parallel = vllm_config.parallel_config
    if getattr(parallel, "use_ubatching", False) or getattr(parallel, "enable_dbo", False):
        return "steps are cut into micro-batches; drop enable_dbo"
    if int(getattr(parallel, "prefill_context_parallel_size", 1) or 1) > 1:
        return "tokens of one step are split over ranks; drop prefill_context_parallel_size"
    return ""
