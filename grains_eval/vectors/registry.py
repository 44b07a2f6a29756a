"""The table of methods: everything that a recipe's `vectors.method` may name, and the decorators that fill it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from grains_eval.registry import Registry
from grains_eval.vectors.context import BuildContext, BuiltVectors
from grains_eval.vectors.own_steering import OwnSteering

# what an artifact of the method holds; `study.methods` knows how each is made
Makes = Literal["vectors", "tokens", "adapter", "instruction", "contrast"]
Build = Callable[[BuildContext], BuiltVectors]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Method:
    """An entry of the table.

    Attributes:
        function: What does the work; for `vectors` a function from `BuildContext` to `BuiltVectors`.
        makes: What its artifacts hold.
        steering: How it is applied, where its source says otherwise than a recipe's `steering` section.
        is_attributing: Whether it reads the recipe's attributions, which several processes then share.
        is_control: Whether nothing is claimed for it.
        is_baseline: Whether `compare --config` runs it without being asked.
    """

    function: Callable[..., Any]
    makes: Makes = "vectors"
    steering: OwnSteering | None = None
    is_attributing: bool = False
    is_control: bool = False
    is_baseline: bool = False


METHODS: Registry[Method] = Registry("method", "grains_eval.vectors")


def vector_method(
    name: str,
    *,
    steering: OwnSteering | None = None,
    is_attributing: bool = False,
    is_control: bool = False,
    is_baseline: bool = False,
) -> Callable[[Build], Build]:
    """Register a function that makes one direction per layer as the method `name` of a recipe's `vectors.method`.

    Args:
        name: What a recipe calls it.
        steering: See `Method`, as all that follow.
        is_attributing: See there.
        is_control: See there.
        is_baseline: See there.

    Raises:
        GrainsError: the name is taken.
    """
    return method(
        name,
        steering=steering,
        is_attributing=is_attributing,
        is_control=is_control,
        is_baseline=is_baseline,
    )


def method(name: str, **entry: Any) -> Callable[[Function], Function]:
    """Register a function that makes something other than vectors; keywords as the attributes of `Method`.

    Raises:
        GrainsError: the name is taken.
    """

    def register(function: Function) -> Function:
        METHODS.add(name, Method(function, **entry), function.__module__)
        return function

    return register
