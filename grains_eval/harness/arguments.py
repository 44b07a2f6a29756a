"""The steering part of `--model_args`: which vectors act, where and how strongly.

Several vectors are composed with `+`, and so are their settings: `vectors=a+b,strength=1.0+0.5,layers=14+8/9`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from grains_eval.artifacts.layout import Artifact, fingerprint
from grains_eval.artifacts.load import open_artifact
from grains_eval.errors import GrainsError, pick
from grains_eval.models.layers import hidden_size
from grains_eval.steering import OPERATORS, ResolvedSteering, check_width, resolve
from grains_eval.types import FoundTokens, SteeringConfig, TokenConfig
from grains_eval.virtual_tokens import ResolvedTokens, check_fit, layout
from grains_eval.virtual_tokens.merging import merged, resolve_tokens

logger = logging.getLogger(__name__)

_OF_VECTORS = ("unit", "operator", "positions")
_OF_TOKENS = ("tokens", "distance", "form")
_KINDS = {(False, False): "steering vectors", (True, False): "found tokens", (False, True): "a contrast"}


@dataclass(frozen=True)
class AppliedArtifact:
    """One artifact with the setting it is applied with.

    Attributes:
        source: Folder or hub id as given.
        artifact: What it holds.
        config: How vectors or found tokens are applied; None for adapters, instructions and contrasts.
        resolved: Hook-ready form; None where nothing moves (strength 0, or no vectors, or tokens in the prompt).
    """

    source: str
    artifact: Artifact
    config: SteeringConfig | TokenConfig | None
    resolved: ResolvedSteering | ResolvedTokens | None

    @property
    def is_inserted(self) -> bool:
        """Whether found tokens stand in the prompt itself, as an embedding or as words."""
        return isinstance(self.config, TokenConfig) and self.config.form != "kv" and self.config.strength > -inf

    @property
    def is_shown(self) -> bool:
        """Whether all that it does is in `resolved`, so that one pass can hold several of its kind."""
        return (self.artifact.vectors is not None or self.artifact.tokens is not None) and not self.is_inserted

    def describe(self) -> dict[str, Any]:
        """What the results JSON says of it."""
        vectors, provenance = self.artifact.vectors or self.artifact.tokens, self.artifact.provenance
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
            known = vectors.positive.layers if isinstance(vectors, FoundTokens) else vectors.layers
            layers = known if self.config.layers is None else self.config.layers
            described |= {**asdict(self.config), "layers": list(layers), "fingerprint": fingerprint(vectors)}
        if isinstance(vectors, FoundTokens) and isinstance(self.config, TokenConfig):
            own = merged(vectors.positive, self.config.tokens).distances
            described["distances"] = list(own) if self.config.distance is None else [self.config.distance] * len(own)
            described["every_layer"] = self.config.layers is None
        if self.artifact.adapter is not None:
            weights = (self.artifact.adapter / "adapter_model.safetensors").read_bytes()
            described["fingerprint"] = hashlib.sha256(weights).hexdigest()[:16]
        if self.artifact.contrast is not None:
            described["contrast"] = asdict(self.artifact.contrast)
        if self.artifact.instruction is not None:
            described["instruction"] = self.artifact.instruction
        return described


def check_artifact(model: PreTrainedModel, item: AppliedArtifact) -> None:
    """Refuse an artifact that does not fit the model.

    Raises:
        GrainsError: another width or depth, a model that shows no virtual token exactly, or a distance that would have
            no effect.
    """
    if item.artifact.vectors is not None:
        check_width(model, item.artifact.vectors)
    if item.artifact.tokens is None or not isinstance(item.config, TokenConfig):
        return
    if isinstance(item.resolved, ResolvedTokens):
        places = layout(model)
        check_fit(places, item.resolved)
        if item.config.distance is not None and not places.is_rotary:
            raise GrainsError(
                f"{type(model).__name__} has learned positions, which a token's keys bring along: distance= has no "
                "effect on form=kv; leave it out, or use form=embedding or form=text"
            )
    width, own = item.artifact.tokens.positive.embeddings.shape[-1], hidden_size(model)
    if item.config.form == "embedding" and width != own:
        raise GrainsError(f"found tokens have embeddings of width {width} but the model needs {own}; build them for it")


def parse_steering(
    vectors: str | None,
    strength: Any = None,
    layers: Any = None,
    unit: Any = None,
    operator: Any = None,
    positions: Any = None,
    tokens: Any = None,
    distance: Any = None,
    form: Any = None,
) -> tuple[AppliedArtifact, ...]:
    """Read the artifacts and settle how each is applied; what is not given comes from the artifact's recommendation.

    Args:
        vectors: `folder`, `org/name@revision`, or several joined by `+`; None for the plain model.
        strength: A number each, or one for all that have vectors; so are all that follow.
        layers: `14`, `8-12` (inclusive), `8/14/20`, or a list; `all` for every layer of the vectors.
        unit: `relative` or `absolute`.
        operator: A name in `steering.OPERATORS`.
        positions: `all`, `prompt`, `generated` or `last`.
        tokens: Found tokens: number of virtual ones; so are all that follow.
        distance: Tokens back to them.
        form: `kv`, `embedding` or `text`.

    Raises:
        GrainsError: settings without vectors, a count that does not fit, or a value that is not allowed.
    """
    given = {
        "strength": strength, "layers": layers, "unit": unit, "operator": operator, "positions": positions,
        "tokens": tokens, "distance": distance, "form": form,
    }  # fmt: skip
    if vectors == "":
        raise GrainsError("vectors= is empty, which is not the plain model; give a folder or hub id, or leave it out")
    if vectors is None:
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise GrainsError(f"model_args has '{extra[0]}' but no 'vectors'; add vectors=<folder or hub id>")
        return ()
    # a folder may have a plus in its name
    sources = [str(vectors)] if Path(str(vectors)).exists() else str(vectors).split("+")
    artifacts = [open_artifact(source) for source in sources]
    # one value for all holds for those that it can apply to, if there are any
    settings = {name: _spread(name, value, len(sources)) for name, value in given.items()}
    for name, value in given.items():
        fits = [_takes(artifact, name) for artifact in artifacts]
        if any(fits) and not (isinstance(value, str) and "+" in value):
            settings[name] = [value if fit else None for fit in fits]
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


def _takes(artifact: Artifact, name: str) -> bool:
    """Whether an artifact has a setting of that name."""
    if artifact.tokens is not None:
        return name not in _OF_VECTORS
    if artifact.contrast is not None:
        return name == "strength"
    return artifact.vectors is not None and name not in _OF_TOKENS


def _apply(source: str, artifact: Artifact, given: dict[str, Any]) -> AppliedArtifact:
    what = _KINDS[artifact.tokens is not None, artifact.contrast is not None]
    if artifact.tokens is not None or artifact.vectors is not None or artifact.contrast is not None:
        foreign = [name for name, value in given.items() if value is not None and not _takes(artifact, name)]
        if foreign:
            raise GrainsError(f"'{source}' holds {what}; '{foreign[0]}' does not apply")
    if artifact.tokens is not None:
        return _apply_tokens(source, artifact, artifact.tokens, given)
    if artifact.contrast is not None:
        alpha = artifact.contrast.alpha if given["strength"] is None else number("strength", given["strength"], float)
        return AppliedArtifact(source, replace(artifact, contrast=replace(artifact.contrast, alpha=alpha)), None, None)
    if artifact.vectors is None:
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise GrainsError(
                f"'{source}' is a {artifact.method} artifact without vectors; '{extra[0]}' does not apply"
            )
        return AppliedArtifact(source, artifact, None, None)
    changes: dict[str, Any] = {}
    if given["strength"] is not None:
        changes["strength"] = number("strength", given["strength"], float)
    if given["layers"] is not None:
        changes["layers"] = parse_layers(given["layers"])
    changes |= {name: str(given[name]) for name in _OF_VECTORS if given[name] is not None}
    if "operator" in changes:
        pick(OPERATORS, changes["operator"], "operator")
    config = replace(artifact.vectors.recommended, **changes)
    if config.strength == 0 and "strength" not in changes:
        logger.warning("'%s' recommends strength 0: nothing is steered; give strength= to steer all the same", source)
    return AppliedArtifact(source, artifact, config, resolve(artifact.vectors, config))


def _apply_tokens(source: str, artifact: Artifact, found: FoundTokens, given: dict[str, Any]) -> AppliedArtifact:
    changes: dict[str, Any] = {}
    for name, kind in (("strength", float), ("tokens", int), ("distance", int)):
        if given[name] is not None:
            changes[name] = number(name, given[name], kind)
    if given["form"] is not None:
        changes["form"] = str(given["form"])
    if given["layers"] is not None:
        changes["layers"] = parse_layers(given["layers"])
    recommended = found.recommended
    if changes.get("form", recommended.form) != "kv":  # what is recommended for keys and values has no meaning there
        recommended = replace(recommended, layers=None, strength=0.0)
    config = replace(recommended, **changes)
    merged(found.positive, config.tokens)  # refuses a number that was not found, in every form
    return AppliedArtifact(source, artifact, config, resolve_tokens(found, config))


def number(name: str, value: Any, kind: Callable[[Any], Any]) -> Any:
    """Read an argument as an `int` or a `float`.

    Raises:
        GrainsError: it is no number, or no whole one.
    """
    try:
        found = kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise GrainsError(f"{name}={value} is not a {'number' if kind is float else 'whole number'}") from error
    if isinstance(value, float) and kind is int and found != value:
        raise GrainsError(f"{name}={value} is not a whole number")
    return found


def parse_layers(value: Any) -> tuple[int, ...] | None:
    """`14`, `8-12`, `8/14/20`, `[8, 14]` or `all` (None) as layer indices.

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
            raise GrainsError(f"layers={value} is not understood; write 14, 8-12, 8/14/20 or all (layers count from 0)")
        layers.extend(range(int(first), int(last or first) + 1))
    return tuple(dict.fromkeys(layers))
