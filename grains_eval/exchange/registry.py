"""The table of formats; an entry is made in the file of its format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grains_eval.errors import GrainsError
from grains_eval.exchange.portable import PortableVectors
from grains_eval.registry import Registry
from grains_eval.types import SteeringConfig


@dataclass(frozen=True)
class Format:
    """One tool's file.

    Attributes:
        summary: Whose file it is, for the list of formats.
        suffix: What its name ends in.
        write: Writes vectors to a file that does not exist.
        read: Reads them.
        recognises: Whether a file is of this format and of no other.
        use: How its tool loads the file, which stands in place of `FILE`.
        renormalise: How its tool keeps the length of hidden states, as `add_renormalised` does; empty where it cannot.
        first_layer: The lowest layer that it can hold.
        layer_note: How it counts layers, where that can be mistaken.
    """

    summary: str
    suffix: str
    write: Callable[[PortableVectors, Path], None]
    read: Callable[[Path], PortableVectors]
    recognises: Callable[[Path], bool]
    use: str
    renormalise: str = ""
    first_layer: int = 0
    layer_note: str = ""


FORMATS: Registry[Format] = Registry("format", "grains_eval.exchange")


def losses(made: Format, name: str, config: SteeringConfig, layers: tuple[int, ...]) -> tuple[str, ...]:
    """What a file of this format says differently from the artifact, one line each.

    Args:
        made: The format.
        name: Its name.
        config: How the artifact is applied.
        layers: The layers that are written.

    Raises:
        GrainsError: a layer that the format cannot hold.
    """
    if layers[0] < made.first_layer:
        rest = [layer for layer in layers if layer >= made.first_layer]
        advice = f"--layers {'/'.join(map(str, rest))}" if rest else "another format"
        raise GrainsError(
            f"format {name} holds layers from {made.first_layer} on, and layer {layers[0]} is steered; use {advice}"
        )
    written = ", ".join(map(str, layers))
    found = [
        f"the vectors of layer{'s' * (len(layers) > 1)} {written} hold strength {config.strength:g} ({config.unit}): "
        "load them at scale 1"
    ]
    if made.layer_note:
        found.append(made.layer_note)
    if config.operator != "add":
        instead = made.renormalise if config.operator == "add_renormalised" else ""
        found.append(
            f"operator {config.operator} is not in the file: vectors are added and lengths change, as with operator=add"
            + (f"; {instead}" if instead else "")
        )
    if config.positions != "all":
        found.append(f"positions {config.positions} are not in the file: every token is moved unless its tool is told")
    return tuple(found)
