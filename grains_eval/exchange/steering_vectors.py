"""Vectors of the steering-vectors package: the two fields of its `SteeringVector` as a dict of plain tensors.

The package has no file format of its own; `SteeringVector(**torch.load(file, weights_only=True))` reads this one.
Layers are decoder blocks counted from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from grains_eval.errors import GrainsError, told
from grains_eval.exchange.portable import PortableVectors
from grains_eval.exchange.registry import FORMATS, Format
from grains_eval.exchange.torch_files import is_torch_file, read_tensors

_LAYERS, _TYPE = "layer_activations", "layer_type"
_BLOCK = "decoder_block"


def _write(vectors: PortableVectors, file: Path) -> None:
    layers = {layer: vectors.deltas[layer].detach().float().cpu().clone() for layer in vectors.layers}
    torch.save({_LAYERS: layers, _TYPE: _BLOCK}, file)


def _read(file: Path) -> PortableVectors:
    found: Any = read_tensors(file)
    layers: Any = found.get(_LAYERS) if isinstance(found, Mapping) else None
    if not isinstance(layers, Mapping) or not all(
        type(layer) is int and layer >= 0 and isinstance(vector, Tensor)
        for layer, vector in cast(Mapping[Any, Any], layers).items()
    ):
        raise GrainsError(f"'{file}' has no '{_LAYERS}' of the form {{layer: tensor}}; see docs/sharing.md")
    kind: Any = cast(Mapping[str, Any], found).get(_TYPE, _BLOCK)
    if not isinstance(kind, str) or kind != _BLOCK:
        raise GrainsError(f"'{file}' holds vectors of layer type '{told(kind)}'; only '{_BLOCK}' can be imported")
    return PortableVectors(dict(cast(Mapping[int, Tensor], layers)))


def _recognises(file: Path) -> bool:
    found: Any = read_tensors(file) if is_torch_file(file) else None
    return isinstance(found, Mapping) and _LAYERS in found


FORMATS.add(
    "steering_vectors",
    Format(
        "the fields of steering-vectors' SteeringVector",
        ".steering_vectors.pt",
        _write,
        _read,
        _recognises,
        use='SteeringVector(**torch.load("FILE", weights_only=True))',
    ),
    __name__,
)
