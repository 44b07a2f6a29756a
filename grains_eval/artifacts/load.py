"""Find, check and load artifact folders; nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from grains_eval.artifacts.layout import (
    ADAPTER,
    ATTRIBUTIONS,
    CARD,
    CONFIG,
    FORMAT_VERSION,
    IMAGES,
    RECIPE,
    TENSORS,
    TOKENS,
    Artifact,
    ArtifactConfig,
    Origin,
)
from grains_eval.errors import GrainsError
from grains_eval.types import (
    Contrast,
    FoundTokens,
    SteeringConfig,
    SteeringVectors,
    TokenConfig,
    TokenOrigin,
    TokenPool,
)

# what an artifact may hold, and all that is ever downloaded or uploaded
PATTERNS = [
    CONFIG,
    TENSORS,
    TOKENS,
    RECIPE,
    CARD,
    ATTRIBUTIONS,
    f"{ADAPTER}/*.json",
    f"{ADAPTER}/*.safetensors",
    f"{IMAGES}/*",
]
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".npy", ".npz"}


def locate(source: str | Path) -> Path:
    """The local folder of an artifact; a hub id `org/name` or `org/name@revision` is downloaded.

    Raises:
        GrainsError: a pickle, a file, or neither a folder nor a reachable hub repository.
    """
    path = Path(source)
    if path.suffix in _PICKLES or path.is_file():
        raise GrainsError(
            f"'{source}' is a file; vectors are a folder with {CONFIG} and {TENSORS} (pickles are never opened): "
            "build one with grains-eval build"
        )
    if path.is_dir():
        return path
    name, _, revision = str(source).partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise GrainsError(f"vectors folder '{source}' does not exist; give a folder or a hub id like org/name@revision")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=PATTERNS))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise GrainsError(
            f"vectors '{source}' are neither a local folder nor a reachable hub repository: {reason}"
        ) from error


def read_config(folder: Path) -> ArtifactConfig:
    """Read and check `steering_config.json`.

    Raises:
        GrainsError: it is missing, unreadable or of a newer format.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise GrainsError(f"'{folder}' has no {CONFIG}: it is not a vectors folder; build one with grains-eval build")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        found = raw.get("format_version")
        if isinstance(found, int) and found > FORMAT_VERSION:
            raise GrainsError(
                f"'{folder}' has format {found} but this version reads up to {FORMAT_VERSION}; upgrade grains-eval"
            )
        return ArtifactConfig.model_validate(raw)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise GrainsError(f"'{file}' is damaged: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise GrainsError(f"'{file}' is not a steering config: {key}: {first['msg']}") from error


def open_artifact(source: str | Path) -> Artifact:
    """Load any artifact.

    Raises:
        GrainsError: see `locate`, `read_config`; missing or extra layers, wrong shapes, numbers that are not finite.
    """
    folder = locate(source)
    config = read_config(folder)
    adapter = folder / ADAPTER
    if adapter.is_dir():
        return Artifact(config.method, None, adapter, None, config.provenance)
    if config.instruction is not None:
        return Artifact(config.method, None, None, config.instruction, config.provenance)
    if config.contrast is not None:
        contrast = Contrast(config.contrast.alpha, config.contrast.contexts)
        return Artifact(config.method, None, None, None, config.provenance, contrast=contrast)
    if config.found_tokens is not None:
        tokens = _read_tokens(folder, config, config.found_tokens)
        return Artifact(config.method, None, None, None, config.provenance, tokens)
    return Artifact(config.method, _read_vectors(folder, config), None, None, config.provenance)


def load_vectors(source: str | Path) -> SteeringVectors:
    """Load steering vectors from a folder or hub id.

    Raises:
        GrainsError: see `open_artifact`; or the artifact holds something other than vectors.
    """
    artifact = open_artifact(source)
    vectors = artifact.vectors
    if artifact.tokens is not None:
        raise GrainsError(f"'{source}' holds found tokens, no vectors; evaluate it with grains_hf")
    if vectors is None:
        raise GrainsError(
            f"'{source}' holds no vectors but an adapter, an instruction or a contrast; evaluate it with grains_hf"
        )
    return vectors


def _tensors(file: Path, what: str) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise GrainsError(f"'{file}' is missing or damaged: {error}; build the {what} again") from error


def _read_tokens(folder: Path, config: ArtifactConfig, sides: Mapping[str, Sequence[Origin]]) -> FoundTokens:
    tensors = _tensors(folder / TOKENS, "tokens")
    parts = [f"{part}.{layer}" for part in ("keys", "values") for layer in config.layers] + ["embeddings"]
    expected = {f"{side}.{part}" for side in sides for part in parts}
    if (
        "positive" not in sides
        or not set(sides) <= {"positive", "negative"}
        or not config.layers
        or expected != set(tensors)
    ):
        missing = sorted(expected ^ set(tensors)) or ["the positive side"]
        raise GrainsError(f"'{folder}': {CONFIG} and {TOKENS} disagree about {missing[0]}; build the tokens again")
    for name, tensor in sorted(tensors.items(), key=lambda each: each[0].startswith("negative")):
        side, _, part = name.partition(".")
        count, at_end = len(sides[side]), part == "embeddings"
        model = tensors[f"positive.{part}"].shape[1:]
        if not count or tensor.shape[0] != count or tensor.ndim != (2 if at_end else 3) or tensor.shape[1:] != model:
            raise GrainsError(
                f"'{folder}': {name} has shape {list(tensor.shape)}, expected {count} found tokens of "
                f"{'[hidden]' if at_end else '[heads, width]'}, alike on both sides; build the tokens again"
            )
        if not tensor.isfinite().all():
            raise GrainsError(f"'{folder}': {name} holds numbers that are not finite; build the tokens again")
    pools = {
        side: TokenPool(
            {layer: tensors[f"{side}.keys.{layer}"] for layer in config.layers},
            {layer: tensors[f"{side}.values.{layer}"] for layer in config.layers},
            tensors[f"{side}.embeddings"],
            tuple(_origin(one) for one in origins),
        )
        for side, origins in sides.items()
    }
    try:
        settings: dict[str, Any] = {**config.recommended, "layers": _tuple(config.recommended.get("layers"))}
        recommended = TokenConfig(**settings)
    except (TypeError, GrainsError) as error:
        raise GrainsError(f"'{folder}': the recommended setting is damaged: {error}") from error
    provenance = {"method": config.method, **config.provenance}
    return FoundTokens(pools["positive"], pools.get("negative"), recommended, provenance)


def _origin(given: Origin) -> TokenOrigin:
    statistic = float("nan") if given.statistic is None else given.statistic
    return TokenOrigin(given.word, given.token_id, given.position, given.distance, given.example, statistic)


def _read_vectors(folder: Path, config: ArtifactConfig) -> SteeringVectors:
    tensors = _tensors(folder / TENSORS, "vectors")
    expected = {f"layers.{layer}" for layer in config.layers}
    if expected != set(tensors) or not expected:
        missing = sorted(expected ^ set(tensors)) or ["every layer"]
        raise GrainsError(f"'{folder}': {CONFIG} and {TENSORS} disagree about {missing[0]}; build the vectors again")
    for name, tensor in tensors.items():
        if tensor.shape != (config.hidden_size,):
            raise GrainsError(f"'{folder}': {name} has shape {list(tensor.shape)}, expected [{config.hidden_size}]")
        if not tensor.isfinite().all():
            raise GrainsError(f"'{folder}': {name} holds numbers that are not finite; build the vectors again")
    try:
        settings: dict[str, Any] = {**config.recommended, "layers": _tuple(config.recommended.get("layers"))}
        recommended = SteeringConfig(**settings)
    except (TypeError, GrainsError) as error:
        raise GrainsError(f"'{folder}': the recommended setting is damaged: {error}") from error
    return SteeringVectors(
        directions={layer: tensors[f"layers.{layer}"] for layer in config.layers},
        scales=config.scales,
        site=config.site,
        statistics={
            k: {n: float("nan") if x is None else x for n, x in v.items()} for k, v in config.statistics.items()
        },
        recommended=recommended,
        provenance={"method": config.method, **config.provenance},
    )


def _tuple(layers: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if layers is None else tuple(layers)
