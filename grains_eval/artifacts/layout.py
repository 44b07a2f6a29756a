"""What an artifact folder holds, by name, and what a loaded one is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from grains_eval.types import Attribution, Site, SteeringVectors, TokenSelection

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT_VERSION = 1
CONFIG = "steering_config.json"
TENSORS = "steering_vectors.safetensors"
ATTRIBUTIONS = "attributions.parquet"
RECIPE = "recipe.yaml"
CARD = "README.md"
ADAPTER = "adapter"
IMAGES = "pictures"  # as it is called in artifacts that are there


class ArtifactConfig(BaseModel):
    """What `steering_config.json` holds."""

    model_config = ConfigDict(extra="allow", frozen=True)

    format_version: int
    method: str
    site: Site = "block_output"
    hidden_size: int | None = None
    layers: list[int] = []
    scales: dict[int, float] = {}
    statistics: dict[int, dict[str, float | None]] = {}
    recommended: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    instruction: str | None = None


@dataclass(frozen=True)
class ArtifactContents:
    """What a folder is written from; exactly one of `vectors`, `adapter` and `instruction` is there.

    Attributes:
        vectors: Steering vectors.
        adapter: A peft folder to copy in (LoRA baseline).
        instruction: The behaviour as a system instruction (prompting baseline).
        provenance: Where all of it comes from, as JSON values; None takes that of the vectors.
        recipe: The recipe's YAML as run.
        attributions: Scores behind the vectors, one per example.
        selections: What was masked, in the same order.
        images: The images of each example, in the same order; those of the first examples are kept.
    """

    vectors: SteeringVectors | None = None
    adapter: Path | None = None
    instruction: str | None = None
    provenance: Mapping[str, Any] | None = None
    recipe: str | None = None
    attributions: Sequence[Attribution] = ()
    selections: Sequence[TokenSelection] = ()
    images: Sequence[Sequence[Image]] = ()


@dataclass(frozen=True)
class Artifact:
    """A loaded folder; exactly one of `vectors`, `adapter` and `instruction` is there.

    Attributes:
        method: Name of the method that made it.
        vectors: Steering vectors.
        adapter: Folder of a peft adapter (LoRA baseline).
        instruction: The behaviour as a system instruction (prompting baseline).
        provenance: Base model, seed, recipe hash, doc hashes, package versions.
    """

    method: str
    vectors: SteeringVectors | None
    adapter: Path | None
    instruction: str | None
    provenance: Mapping[str, Any]


def fingerprint(vectors: SteeringVectors) -> str:
    """16 hex digits over site, scales and every number of the directions."""
    digest = hashlib.sha256(vectors.site.encode())
    for layer in vectors.layers:
        digest.update(f"{layer}:{vectors.scales.get(layer)}".encode())
        digest.update(vectors.directions[layer].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
