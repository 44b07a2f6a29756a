"""What `grains_vllm` may be started with; needs no vLLM."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from grains_eval.errors import GrainsError, unknown
from grains_eval.harness.arguments import number
from grains_eval.vllm.library import refusals

_HF_ALONE = ("plugins", "share_context")
# in the signature of `grains_vllm` itself
_OWN = ("vectors", "strength", "layers", "unit", "operator", "positions", "tokens", "distance", "form")
_IGNORED = ("device", "swap_space")  # lm-eval takes them and warns that they do nothing
_ROOM = ("max_settings", "max_vectors")


def check_arguments(given: Mapping[str, Any], known: Collection[str], own: Collection[str] = ()) -> None:
    """Refuse names that neither lm-eval's `vllm` nor an engine takes.

    Args:
        given: Further model arguments.
        known: Names that both take.
        own: Names that `grains_vllm` itself takes for the model at hand.

    Raises:
        GrainsError: an argument of `grains_hf` alone, or an unknown one.
    """
    for name in given:
        if name in _HF_ALONE:
            raise GrainsError(f"{name}= is an argument of grains_hf alone; leave it out, or use grains_hf")
        if name not in known and name not in _IGNORED:
            raise unknown(name, {*known, *own, *_OWN, *_ROOM} - {"self", "kwargs"}, "model argument")


def read_count(name: str, value: Any, least: int) -> int:
    """Read a number of rows or stages.

    Raises:
        GrainsError: it is no whole number, or too small.
    """
    found = int(number(name, value, int))
    if found < least:
        raise GrainsError(f"{name}={value} is below {least}")
    return found


def check_one_engine(given: Mapping[str, Any]) -> None:
    """Refuse to steer engines that lm-eval starts elsewhere.

    Raises:
        GrainsError: `data_parallel_size` above 1.
    """
    if int(number("data_parallel_size", given.get("data_parallel_size", 1), int)) > 1:
        raise GrainsError(
            "data_parallel_size starts engines that cannot be reached; use tensor_parallel_size or "
            "pipeline_parallel_size, or one run per GPU"
        )


@contextmanager
def refused_in_one_line() -> Generator[None, None, None]:
    """Say in one line what vLLM refuses of an engine's configuration.

    Raises:
        GrainsError: it refuses something.
    """
    try:
        yield
    except GrainsError:
        raise
    except refusals() as error:
        found: Any = getattr(error, "errors", None)  # pydantic's, whose text begins with how many there are
        said = str(cast(Any, found)()[0]["msg"]) if callable(found) else str(error)
        raise GrainsError(f"vLLM starts no such engine: {' '.join(said.split())[:300]}") from error


def check_one_process() -> None:
    """Refuse launchers that start a process for every GPU: each would start an engine of its own, for the same items.

    Raises:
        GrainsError: this is one process of several.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    if world.isdigit() and int(world) > 1:
        raise GrainsError(
            f"torchrun or accelerate launch started {world} processes and each would start a vLLM engine; "
            f"start one process with tensor_parallel_size={world} instead"
        )
