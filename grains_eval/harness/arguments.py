"""The steering part of `--model_args`: which vectors act, where and how strongly.

Several vectors are composed with `+`, and so are their settings: `vectors=a+b,strength=1.0+0.5,layers=14+8/9`.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from grains_eval.artifacts.layout import Artifact, fingerprint
from grains_eval.artifacts.load import open_artifact
from grains_eval.errors import GrainsError, pick
from grains_eval.steering import OPERATORS, ResolvedSteering, resolve
from grains_eval.types import SteeringConfig

logger = logging.getLogger(__name__)

_UNITS = {"relative": "relative", "absolute": "absolute"}
_POSITIONS = {name: name for name in ("all", "prompt", "generated", "last")}


@dataclass(frozen=True)
class AppliedArtifact:
    """One artifact with the setting it is applied with.

    Attributes:
        source: Folder or hub id as given.
        artifact: What it holds.
        config: How vectors are applied; None for adapters and instructions.
        resolved: Hook-ready form; None where nothing moves (strength 0, or no vectors).
    """

    source: str
    artifact: Artifact
    config: SteeringConfig | None
    resolved: ResolvedSteering | None

    def describe(self) -> dict[str, Any]:
        """What the results JSON says of it."""
        vectors, provenance = self.artifact.vectors, self.artifact.provenance
        described: dict[str, Any] = {
            "vectors": self.source,
            "method": self.artifact.method,
            "base_model": provenance.get("base_model"),
            "recipe_hash": provenance.get("recipe_hash"),
            "kind": provenance.get("kind", "method"),
            "evaluation": provenance.get("evaluation", {}),
            "doc_hashes": provenance.get("doc_hashes", {}),
        }
        if vectors is not None and self.config is not None:
            layers = vectors.layers if self.config.layers is None else self.config.layers
            described |= {**asdict(self.config), "layers": list(layers), "fingerprint": fingerprint(vectors)}
        if self.artifact.adapter is not None:
            weights = (self.artifact.adapter / "adapter_model.safetensors").read_bytes()
            described["fingerprint"] = hashlib.sha256(weights).hexdigest()[:16]
        if self.artifact.instruction is not None:
            described["instruction"] = self.artifact.instruction
        return described


def parse_steering(
    vectors: str | None,
    strength: Any = None,
    layers: Any = None,
    unit: Any = None,
    operator: Any = None,
    positions: Any = None,
) -> tuple[AppliedArtifact, ...]:
    """Read the artifacts and settle how each is applied; what is not given comes from the artifact's recommendation.

    Args:
        vectors: `folder`, `org/name@revision`, or several joined by `+`; None for the plain model.
        strength: A number each, or one for all that have vectors; so are all that follow.
        layers: `14`, `8-12` (inclusive), `8/14/20`, or a list; `all` for every layer of the vectors.
        unit: `relative` or `absolute`.
        operator: A name in `steering.OPERATORS`.
        positions: `all`, `prompt`, `generated` or `last`.

    Raises:
        GrainsError: settings without vectors, a count that does not fit, or a value that is not allowed.
    """
    given = {
        "strength": strength, "layers": layers, "unit": unit, "operator": operator, "positions": positions,
    }  # fmt: skip
    if vectors is None or vectors == "":
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise GrainsError(f"model_args has '{extra[0]}' but no 'vectors'; add vectors=<folder or hub id>")
        return ()
    # a folder may have a plus in its name
    sources = [str(vectors)] if Path(str(vectors)).exists() else str(vectors).split("+")
    artifacts = [open_artifact(source) for source in sources]
    # one value for all holds for those that have vectors, if any does
    some = any(artifact.vectors is not None for artifact in artifacts)
    settings = {name: _spread(name, value, len(sources)) for name, value in given.items()}
    for name, value in given.items():
        if some and not (isinstance(value, str) and "+" in value):
            settings[name] = [None if artifact.vectors is None else value for artifact in artifacts]
    return tuple(
        _apply(source, artifact, {name: values[index] for name, values in settings.items()})
        for index, (source, artifact) in enumerate(zip(sources, artifacts, strict=True))
    )


def _spread(name: str, value: Any, count: int) -> list[Any]:
    parts = value.split("+") if isinstance(value, str) else [value]
    if len(parts) == 1:
        return parts * count
    if len(parts) != count:
        raise GrainsError(f"{name}={value} has {len(parts)} parts for {count} vectors; give one, or one each")
    return parts


def _apply(source: str, artifact: Artifact, given: dict[str, Any]) -> AppliedArtifact:
    if artifact.vectors is None:
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise GrainsError(
                f"'{source}' is a {artifact.method} artifact without vectors; '{extra[0]}' does not apply"
            )
        return AppliedArtifact(source, artifact, None, None)
    changes: dict[str, Any] = {}
    if given["strength"] is not None:
        try:
            changes["strength"] = float(given["strength"])
        except (TypeError, ValueError) as error:
            raise GrainsError(f"strength={given['strength']} is not a number") from error
    if given["layers"] is not None:
        changes["layers"] = parse_layers(given["layers"])
    for name, table in (("unit", _UNITS), ("operator", OPERATORS), ("positions", _POSITIONS)):
        if given[name] is not None:
            pick(table, str(given[name]), name)
            changes[name] = str(given[name])
    config = replace(artifact.vectors.recommended, **changes)
    if config.strength == 0 and "strength" not in changes:
        logger.warning("'%s' recommends strength 0: nothing is steered; give strength= to steer all the same", source)
    return AppliedArtifact(source, artifact, config, resolve(artifact.vectors, config))


def parse_layers(value: Any) -> tuple[int, ...] | None:
    """`14`, `8-12`, `8/14/20`, `[8, 14]` or `all` (None) as block indices.

    Raises:
        GrainsError: anything else.
    """
    if value == "all":
        return None
    parts = value if isinstance(value, list | tuple) else str(value).split("/")
    layers: list[int] = []
    for part in parts:
        first, dash, last = str(part).strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise GrainsError(f"layers={value} is not understood; write 14, 8-12, 8/14/20 or all (blocks count from 0)")
        layers.extend(range(int(first), int(last or first) + 1))
    return tuple(dict.fromkeys(layers))
