"""What an artifact folder holds, by name, and what a loaded one is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from grains_eval.types import Attribution, Contrast, FoundTokens, Site, SteeringVectors, TokenPool, TokenSelection

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT_VERSION = 3
_FIRST, _WITH_TOKENS = 1, 2  # of artifacts that older versions read too
CONFIG = "steering_config.json"
TENSORS = "steering_vectors.safetensors"
TOKENS = "found_tokens.safetensors"
ATTRIBUTIONS = "attributions.parquet"
RECIPE = "recipe.yaml"
CARD = "README.md"
ADAPTER = "adapter"
MOST_LAYERS = 100_000  # more than any model has
IMAGES = "pictures"  # the name in existing artifacts


class Origin(BaseModel):
    """Where a found token stood; see `types.TokenOrigin`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    word: str
    token_id: int
    position: int
    distance: Annotated[int, Field(ge=0)]
    example: str
    statistic: float | None = None


class ContrastConfig(BaseModel):
    """A contrast; see `types.Contrast`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    contexts: dict[str, str]


class ArtifactConfig(BaseModel):
    """What `steering_config.json` holds."""

    model_config = ConfigDict(extra="allow", frozen=True)

    format_version: Annotated[int, Field(ge=_FIRST)]
    method: str
    site: Site = "block_output"
    hidden_size: int | None = None
    layers: list[Annotated[int, Field(ge=0, lt=MOST_LAYERS)]] = []
    scales: dict[int, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    statistics: dict[int, dict[str, float | None]] = {}
    recommended: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    instruction: str | None = None
    found_tokens: dict[str, list[Origin]] | None = None
    contrast: ContrastConfig | None = None


@dataclass(frozen=True)
class ArtifactContents:
    """What a folder is written from; exactly one of its kinds is there.

    Attributes:
        vectors: Steering vectors.
        adapter: A peft folder to copy in (LoRA baseline).
        instruction: The behaviour as a system instruction (prompting baseline).
        provenance: Where all of it comes from, as JSON values; None takes that of the vectors or tokens.
        recipe: The recipe's YAML as run.
        attributions: Scores behind the vectors, one per example.
        selections: What was masked, in the same order.
        images: The images of each example, in the same order; those of the first examples are kept.
        tokens: Found tokens.
        contrast: How strongly contexts are amplified (context-aware decoding).
    """

    vectors: SteeringVectors | None = None
    adapter: Path | None = None
    instruction: str | None = None
    provenance: Mapping[str, Any] | None = None
    recipe: str | None = None
    attributions: Sequence[Attribution] = ()
    selections: Sequence[TokenSelection] = ()
    images: Sequence[Sequence[Image]] = ()
    tokens: FoundTokens | None = None
    contrast: Contrast | None = None


@dataclass(frozen=True)
class Artifact:
    """A loaded folder; exactly one of its kinds is there: vectors, tokens, adapter, instruction or contrast.

    Attributes:
        method: Name of the method that made it.
        vectors: Steering vectors.
        adapter: Folder of a peft adapter (LoRA baseline).
        instruction: The behaviour as a system instruction (prompting baseline).
        tokens: Found tokens.
        contrast: How strongly contexts are amplified (context-aware decoding).
        provenance: Base model, seed, recipe hash, doc hashes, package versions.
    """

    method: str
    vectors: SteeringVectors | None
    adapter: Path | None
    instruction: str | None
    provenance: Mapping[str, Any]
    tokens: FoundTokens | None = None
    contrast: Contrast | None = None


def format_of(contents: ArtifactContents) -> int:
    """The oldest format that holds it."""
    if contents.contrast is not None:
        return FORMAT_VERSION
    return _FIRST if contents.tokens is None else _WITH_TOKENS


def tensors_of(tokens: FoundTokens) -> dict[str, Tensor]:
    """What `found_tokens.safetensors` holds: `SIDE.keys.LAYER`, `SIDE.values.LAYER` and `SIDE.embeddings`, float32."""
    found: dict[str, Tensor] = {}
    for side in ("positive", "negative"):
        pool: TokenPool | None = getattr(tokens, side)
        if pool is not None:
            found |= {f"{side}.keys.{layer}": states for layer, states in pool.keys.items()}
            found |= {f"{side}.values.{layer}": states for layer, states in pool.values.items()}
            found[f"{side}.embeddings"] = pool.embeddings
    return {name: states.detach().float().cpu().contiguous() for name, states in found.items()}


def fingerprint(vectors: SteeringVectors | FoundTokens) -> str:
    """16 hex digits over site, scales and every number of the directions; or over all of found tokens."""
    if isinstance(vectors, FoundTokens):
        digest = hashlib.sha256(b"found tokens")
        for name, states in sorted(tensors_of(vectors).items()):
            digest.update(name.encode())
            digest.update(states.numpy().tobytes())
        origins = [asdict(one) for pool in (vectors.positive, vectors.negative) if pool for one in pool.origins]
        digest.update(json.dumps(origins, sort_keys=True).encode())
        return digest.hexdigest()[:16]
    digest = hashlib.sha256(vectors.site.encode())
    for layer in vectors.layers:
        digest.update(f"{layer}:{vectors.scales.get(layer)}".encode())
        digest.update(vectors.directions[layer].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
