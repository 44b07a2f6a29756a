"""What every format holds: one added vector a layer; how ours become that, and how that becomes ours again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import transformers
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError
from torch import Tensor

from grains_eval.artifacts.layout import MOST_LAYERS
from grains_eval.errors import GrainsError, told
from grains_eval.steering import resolve
from grains_eval.types import SteeringConfig, SteeringVectors

_VERSION = 1


class Record(BaseModel):
    """What is written beside the vectors where a format has room for it, so that an import gives the artifact back.

    Attributes:
        version: Of this record.
        factors: `{layer: f_l}` with `delta_l = f_l v_l`.
        scales: `{layer: m_l}`; see `SteeringVectors`.
        recommended: The setting that was exported.
        provenance: The artifact's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = _VERSION
    factors: dict[int, FiniteFloat]
    scales: dict[int, FiniteFloat]
    recommended: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class PortableVectors:
    """One added vector a layer.

    Attributes:
        deltas: `{layer: [hidden] float32}`, what is added to the output of decoder layer `layer`, counted from 0.
        model_type: Hugging Face's `model_type` of the base model; `unknown` where nothing tells it.
        method: What made the vectors.
        record: What only this project reads; None in a file of another tool.
        notes: What the file cannot say of how the vectors were meant, one line each.
        model_args: lm-eval's model arguments of the base model, for formats that name its modules.
    """

    deltas: Mapping[int, Tensor]
    model_type: str = "unknown"
    method: str = "unknown"
    record: Record | None = None
    notes: tuple[str, ...] = ()
    model_args: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that have a vector, ascending."""
        return tuple(sorted(self.deltas))


def to_portable(vectors: SteeringVectors, config: SteeringConfig, model_args: Mapping[str, Any]) -> PortableVectors:
    """Bake a setting into the vectors: `delta_l = s m_l v_l / ||v_l||` (relative) or `lambda v_l` (absolute).

    Args:
        vectors: The artifact's.
        config: How they are applied.
        model_args: Of the base model, where it is to be read from elsewhere than the artifact says.

    Raises:
        GrainsError: vectors of attention heads, a setting that moves nothing, or a direction of length zero.
    """
    if vectors.site != "block_output":
        raise GrainsError(
            f"these vectors act on {vectors.site.replace('_', ' ')}; the formats hold vectors of whole layers only"
        )
    resolved = resolve(vectors, config)
    if resolved is None:
        raise GrainsError("at strength 0 there is nothing to export; give --strength")
    origin = dict(vectors.provenance)
    factors = {layer: _factor(vectors, config, layer) for layer in resolved.deltas}
    applied = replace(config, layers=tuple(sorted(resolved.deltas)))
    record = Record(
        factors=factors,
        scales={layer: float(vectors.scales[layer]) for layer in factors if layer in vectors.scales},
        recommended=asdict(applied),
        provenance=origin,
    )
    named = {"pretrained": origin.get("base_model"), "revision": origin.get("revision")}
    base = {key: value for key, value in named.items() if value}
    return PortableVectors(
        resolved.deltas, _model_type(origin), str(origin.get("method", "custom")), record, (), {**base, **model_args}
    )


def _factor(vectors: SteeringVectors, config: SteeringConfig, layer: int) -> float:
    length = float(vectors.directions[layer].float().norm())
    if length == 0:
        raise GrainsError(f"the direction of layer {layer} is zero; leave the layer out with --layers")
    return config.strength * (vectors.scales[layer] / length if config.unit == "relative" else 1.0)


def from_portable(found: PortableVectors, source: Mapping[str, Any]) -> SteeringVectors:
    """Artifact contents from a file: with its own record as they were exported, else as the file says.

    Without a record a layer's scale `m_l` is the length of its vector, so that strength 1 is the file's own vector in
    either unit, and the vectors are added at every token.

    Args:
        found: What was read.
        source: Where from, as JSON values; becomes `imported` in the provenance.

    Raises:
        GrainsError: no vectors, several widths, a vector that float32 cannot hold, or a record that does not fit.
    """
    deltas = {layer: dense(found.deltas[layer], f"the vector of layer {told(layer)}") for layer in found.layers}
    if any(not 0 <= layer < MOST_LAYERS for layer in deltas):
        raise GrainsError(f"the file names layer {told(max(deltas, key=abs), 20)}; layers count from 0 as in the model")
    widths = {tuple(delta.shape) for delta in deltas.values()}
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        shapes = ", ".join(str(list(width)) for width in sorted(widths)) or "none"
        raise GrainsError(f"the file holds vectors of the shapes {shapes}; give one vector a layer, all of one width")
    for layer, delta in deltas.items():
        _check_length(delta, f"the vector of layer {layer}")
    if found.record is not None:
        return _restored(deltas, found.record, source)
    return SteeringVectors(
        deltas,
        {layer: float(delta.norm()) for layer, delta in deltas.items()},
        recommended=SteeringConfig(None, 1.0, "absolute", "add", "all"),
        provenance={"method": found.method if found.method != "unknown" else "imported", "imported": dict(source)},
    )


def layer_number(text: str, taken: Collection[int]) -> int:
    """A layer's number as a file spells it.

    Args:
        text: What stands for it.
        taken: Layers that the file has named already.

    Raises:
        GrainsError: it is no number of a layer, or stands there twice in another spelling.
    """
    digits = text.lstrip("0") or "0"
    if not (text.isascii() and text.isdigit()) or len(digits) > len(str(MOST_LAYERS)) or int(digits) >= MOST_LAYERS:
        raise GrainsError(f"'{told(text, 20)}' is no number of a layer; layers count from 0 as in the model")
    if int(digits) in taken:
        raise GrainsError(f"layer {digits} stands there twice, once as '{told(text, 20)}'; give each layer one vector")
    return int(digits)


def dense(vector: Tensor, what: str) -> Tensor:
    """A file's vector as plain float32 on the CPU, unchecked for what float32 cannot hold.

    Args:
        vector: Of any kind that a file can hold.
        what: Its name in errors.

    Raises:
        GrainsError: a tensor without dense real numbers: sparse, nested, quantised, complex or without storage.
    """
    kinds = {
        "nested": vector.is_nested,
        "quantised": vector.is_quantized,
        "without numbers (on the meta device)": vector.is_meta,
        "sparse": vector.layout != torch.strided,
        "complex": vector.is_complex(),
    }
    kind = next((kind for kind, is_it in kinds.items() if is_it), None)
    if kind is not None:
        raise GrainsError(f"{what} is {kind}; save a dense tensor of real numbers, such as float32")
    try:
        return vector.detach().to("cpu", torch.float32).contiguous()
    except (RuntimeError, TypeError) as error:  # of types that torch can hold and not convert
        raise GrainsError(f"{what} is of type {vector.dtype}, which cannot be read; save float32") from error


def _check_length(vector: Tensor, what: str) -> None:
    """Refuse a vector without direction: zero, or longer than float32 tells."""
    if not bool(vector.isfinite().all()) or not bool(vector.any()):
        raise GrainsError(f"{what} is zero or holds numbers that are not finite in float32")
    length = float(vector.norm())
    if not (0 < length < float("inf")):
        raise GrainsError(f"{what} is too {'long' if length else 'short'} for float32: its length reads as {length:g}")


def _restored(deltas: Mapping[int, Tensor], record: Record, source: Mapping[str, Any]) -> SteeringVectors:
    if record.version > _VERSION:
        raise GrainsError(f"the file's grains-eval record has version {record.version}; upgrade grains-eval")
    if set(record.factors) != set(deltas) or set(record.scales) - set(deltas) or not all(record.factors.values()):
        raise GrainsError("the file's grains-eval record names other layers than its vectors; export it again")
    try:
        layers = record.recommended.get("layers")
        settings: dict[str, Any] = {**record.recommended, "layers": None if layers is None else tuple(layers)}
        recommended = SteeringConfig(**settings)
    except (TypeError, OverflowError, GrainsError) as error:
        raise GrainsError(f"the file's grains-eval record holds no setting: {told(error, 200)}") from error
    directions = {layer: delta / record.factors[layer] for layer, delta in deltas.items()}
    for layer, direction in directions.items():
        _check_length(direction, f"by the file's grains-eval record the direction of layer {layer}")
    return SteeringVectors(
        directions,
        record.scales,
        recommended=recommended,
        provenance={**record.provenance, "imported": dict(source)},
    )


def parse_record(text: str) -> Record:
    """The record from its JSON.

    Raises:
        GrainsError: it is none.
    """
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise GrainsError(f"the file's grains-eval record is damaged: {told(first['msg'])}; export it again") from error


def _model_type(provenance: Mapping[str, Any]) -> str:
    """Hugging Face's `model_type` of the class that the vectors were built on, else `unknown`."""
    kind: Any = getattr(transformers, str(provenance.get("architecture")), None)
    return str(getattr(getattr(kind, "config_class", None), "model_type", "unknown"))
