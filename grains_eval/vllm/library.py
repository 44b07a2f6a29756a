"""What is taken from vLLM itself, which need not be installed where nothing is steered in it."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def sampling_parameters(**values: Any) -> Any:
    """`vllm.SamplingParams`."""
    return import_module("vllm").SamplingParams(**values)


def in_context(vllm_config: Any) -> Any:
    """A context in which layers find their engine's configuration, as they do while they are compiled."""
    return import_module("vllm.config").set_current_vllm_config(vllm_config)


def run_without_graphs() -> None:
    """Let the step that is about to run be no replay of a CUDA graph (V1 runner, inside its forward context)."""
    graphs = import_module("vllm.config").CUDAGraphMode
    import_module("vllm.forward_context").get_forward_context().cudagraph_runtime_mode = graphs.NONE
