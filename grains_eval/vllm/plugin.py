"""The entry point of vLLM's `general_plugins`: runs in every process of an engine before its model is made.

An engine whose configuration does not ask for steering is left as it is.
"""

from __future__ import annotations

from functools import wraps
from importlib import import_module
from typing import Any

LOADER = "vllm.model_executor.model_loader.base_loader", "BaseModelLoader"
V1_RUNNER = "vllm.v1.worker.gpu_model_runner", "GPUModelRunner"
V2_RUNNER = "vllm.v1.worker.gpu.model_runner", "GPUModelRunner"


def install() -> None:
    """Patch the loader of models and the two model runners, and, where vectors are served, the handling of requests."""
    from grains_eval.vllm import serve

    _patch_loader()
    if serve.is_wanted():
        serve.install()


def _patch_loader() -> None:
    loader = getattr(import_module(LOADER[0]), LOADER[1])
    if loader.__dict__.get("grains_followed"):
        return
    loader.grains_followed = True
    load = loader.load_model

    @wraps(load)
    def load_model(self: Any, vllm_config: Any, *arguments: Any, **keywords: Any) -> Any:
        from grains_eval.vllm.attach import attach, steering_config

        model = load(self, vllm_config, *arguments, **keywords)
        if steering_config(vllm_config) is not None:
            _follow_runners()
            attach(model, vllm_config)
        return model

    loader.load_model = load_model


def _follow_runners() -> None:
    """Both kinds, since nothing here says which one runs."""
    from grains_eval.vllm.runner import follow_v1, follow_v2

    for (module, name), follow in ((V1_RUNNER, follow_v1), (V2_RUNNER, follow_v2)):
        try:
            kind = getattr(import_module(module), name)
        except ImportError:  # an engine without Triton has no V2
            continue
        follow(kind)
