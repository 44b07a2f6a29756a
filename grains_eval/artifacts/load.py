"""Find, check and load artifact folders; nothing is unpickled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from grains_eval.artifacts.layout import (
    ADAPTER,
    ATTRIBUTIONS,
    CARD,
    CONFIG,
    FORMAT_VERSION,
    IMAGES,
    MOST_LAYERS,
    RECIPE,
    TENSORS,
    TOKENS,
    Artifact,
    ArtifactConfig,
    Origin,
)
from grains_eval.errors import GrainsError, told
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
_Setting = TypeVar("_Setting", SteeringConfig, TokenConfig)
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".npy", ".npz"}


def locate(source: str | Path) -> Path:
    """The local folder of an artifact; a hub id `org/name` or `org/name@revision` is downloaded.

    Raises:
        GrainsError: a pickle, a file, or neither a folder nor a reachable hub repository.
    """
    path, shown = Path(source), told(source, 300)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise GrainsError(f"vectors '{shown}' cannot be read: {told(error.strerror)}") from error
    if path.suffix in _PICKLES or is_file:
        raise GrainsError(
            f"'{shown}' is a file; vectors are a folder with {CONFIG} and {TENSORS} (pickles are never opened): "
            "build one with grains-eval build"
        )
    if is_folder:
        return path
    name, _, revision = str(source).partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or ".." in revision.split("/"):
        raise GrainsError(f"vectors folder '{shown}' does not exist; give a folder or a hub id like org/name@revision")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=PATTERNS))
    except (OSError, ValueError) as error:
        reason = told((str(error).strip().splitlines() or [type(error).__name__])[0], 200)
        raise GrainsError(
            f"vectors '{shown}' are neither a local folder nor a reachable hub repository: {reason}"
        ) from error


def read_config(folder: Path) -> ArtifactConfig:
    """Read and check `steering_config.json`.

    Raises:
        GrainsError: it is missing, unreadable or of a newer format.
    """
    file = inside(folder, CONFIG)
    if not file.is_file():
        raise GrainsError(f"'{folder}' has no {CONFIG}: it is not a vectors folder; build one with grains-eval build")
    raw = _json_object(file)
    found = raw.get("format_version")
    try:
        if isinstance(found, int) and found > FORMAT_VERSION:
            raise _newer(folder, found)  # before what this version does not know is called wrong
        config = ArtifactConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = told(".".join(map(str, first["loc"])))
        raise GrainsError(f"'{file}' is not a steering config: {key}: {told(first['msg'])}") from error
    if config.format_version > FORMAT_VERSION:
        raise _newer(folder, config.format_version)
    if repeated := [layer for layer, count in Counter(config.layers).items() if count > 1]:
        raise GrainsError(f"'{file}' is not a steering config: layers: {repeated[0]} stands there twice")
    return config


def _newer(folder: Path, found: int) -> GrainsError:
    return GrainsError(
        f"'{folder}' has format {told(found, 20)} but this version reads up to {FORMAT_VERSION}; upgrade grains-eval"
    )


def _json_object(file: Path) -> dict[str, Any]:
    try:
        raw: Any = json.loads(file.read_text(encoding="utf-8"))
    # ValueError: no JSON, no UTF-8, or an integer of thousands of digits
    except (OSError, ValueError, RecursionError) as error:
        raise GrainsError(f"'{file}' is damaged: {told(error)}") from error
    if not isinstance(raw, dict):
        raise GrainsError(f"'{file}' is damaged: it holds no JSON object")
    return cast("dict[str, Any]", raw)


def inside(folder: Path, name: str) -> Path:
    """A file of an artifact, which no link may lead out of: `push` would publish whatever it names.

    Raises:
        GrainsError: a link leads elsewhere, or in a circle.
    """
    file = folder / name
    try:
        home, real = folder.resolve(), file.resolve()
        # the hub's cache links from ID/snapshots/REVISION into ID/blobs
        homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    except (OSError, RuntimeError) as error:
        raise GrainsError(f"'{file}' cannot be read: {told(error)}") from error
    if not any(real.is_relative_to(each) for each in homes):
        raise GrainsError(f"'{file}' is a link that leads out of the folder; put a copy of what it names in its place")
    return file


def open_artifact(source: str | Path) -> Artifact:
    """Load any artifact.

    Raises:
        GrainsError: see `locate`, `read_config`; missing or extra layers, wrong shapes, numbers that are not finite.
    """
    folder = locate(source)
    config = read_config(folder)
    if (folder / ADAPTER).is_dir():
        return Artifact(config.method, None, _checked_adapter(folder), None, config.provenance)
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


def _checked_adapter(folder: Path) -> Path:
    """The folder of an adapter that peft can read without unpickling."""
    _json_object(_regular(folder, f"{ADAPTER}/adapter_config.json", "adapter"))
    weights = _regular(folder, f"{ADAPTER}/adapter_model.safetensors", "adapter")
    try:
        with safe_open(weights, "pt") as content:
            content.keys()
    except (OSError, SafetensorError) as error:
        raise GrainsError(f"'{weights}' is damaged: {told(error)}; build the adapter again") from error
    return folder / ADAPTER


def _regular(folder: Path, name: str, what: str) -> Path:
    """A file that is there; a pipe or a device would never end."""
    file = inside(folder, name)
    if not file.is_file():
        raise GrainsError(f"'{file}' is missing or damaged: there is no such file; build the {what} again")
    return file


def _tensors(folder: Path, name: str, what: str) -> dict[str, Tensor]:
    """The tensors of a file as float32.

    Raises:
        GrainsError: it is missing or damaged, or holds something other than finite real numbers.
    """
    file = _regular(folder, name, what)
    try:
        held = load_file(file)
    except (OSError, SafetensorError) as error:
        raise GrainsError(f"'{file}' is missing or damaged: {told(error)}; build the {what} again") from error
    for name, tensor in held.items():
        if tensor.dtype not in _FLOATS:
            raise GrainsError(f"'{folder}': {told(name)} is of type {tensor.dtype}; build the {what} again")
    return {name: tensor.float() for name, tensor in held.items()}


def _read_tokens(folder: Path, config: ArtifactConfig, sides: Mapping[str, Sequence[Origin]]) -> FoundTokens:
    tensors = _tensors(folder, TOKENS, "tokens")
    parts = [f"{part}.{layer}" for part in ("keys", "values") for layer in config.layers] + ["embeddings"]
    expected = {f"{side}.{part}" for side in sides for part in parts}
    if (
        "positive" not in sides
        or not set(sides) <= {"positive", "negative"}
        or not config.layers
        or expected != set(tensors)
    ):
        missing = sorted(expected ^ set(tensors)) or ["the positive side"]
        raise GrainsError(
            f"'{folder}': {CONFIG} and {TOKENS} disagree about {told(missing[0])}; build the tokens again"
        )
    for name, tensor in sorted(tensors.items(), key=lambda each: each[0].startswith("negative")):
        side, _, part = name.partition(".")
        count, at_end = len(sides[side]), part == "embeddings"
        model = tensors[f"positive.{part}"].shape[1:]
        if not count or tensor.ndim != (2 if at_end else 3) or tensor.shape[0] != count or tensor.shape[1:] != model:
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
    recommended = _recommended(folder, config, TokenConfig)
    provenance = {"method": config.method, **config.provenance}
    return FoundTokens(pools["positive"], pools.get("negative"), recommended, provenance)


def _origin(given: Origin) -> TokenOrigin:
    statistic = float("nan") if given.statistic is None else given.statistic
    return TokenOrigin(given.word, given.token_id, given.position, given.distance, given.example, statistic)


def _read_vectors(folder: Path, config: ArtifactConfig) -> SteeringVectors:
    tensors = _tensors(folder, TENSORS, "vectors")
    expected = {f"layers.{layer}" for layer in config.layers}
    if expected != set(tensors) or not expected:
        missing = sorted(expected ^ set(tensors)) or ["every layer"]
        raise GrainsError(
            f"'{folder}': {CONFIG} and {TENSORS} disagree about {told(missing[0])}; build the vectors again"
        )
    for name, tensor in tensors.items():
        if tensor.shape != (config.hidden_size,):
            raise GrainsError(f"'{folder}': {name} has shape {list(tensor.shape)}, expected [{config.hidden_size}]")
        if not tensor.isfinite().all():
            raise GrainsError(f"'{folder}': {name} holds numbers that are not finite; build the vectors again")
    return SteeringVectors(
        directions={layer: tensors[f"layers.{layer}"] for layer in config.layers},
        scales=config.scales,
        site=config.site,
        statistics={
            k: {n: float("nan") if x is None else x for n, x in v.items()} for k, v in config.statistics.items()
        },
        recommended=_recommended(folder, config, SteeringConfig),
        provenance={"method": config.method, **config.provenance},
    )


def _recommended(folder: Path, config: ArtifactConfig, kind: type[_Setting]) -> _Setting:
    """The setting that the artifact recommends; whether its layers are there is said where it is applied."""
    layers: Any = config.recommended.get("layers")
    try:
        settings: dict[str, Any] = {**config.recommended, "layers": None if layers is None else tuple(layers)}
        for number in {"strength", "distance"} & set(settings):
            float(settings[number] or 0)  # an integer may be beyond every float
        made = kind(**settings)
        for layer in cast("tuple[Any, ...]", made.layers or ()):
            if type(layer) is not int or not 0 <= layer < MOST_LAYERS:
                raise GrainsError(f"'{told(layer, 20)}' is no number of a layer; layers count from 0 as in the model")
        if isinstance(made, SteeringConfig) and not isinstance(cast(Any, made.operator), str):
            raise GrainsError(f"operator={told(made.operator)} is no name")
    except (TypeError, ValueError, OverflowError) as error:
        raise GrainsError(f"'{folder}': the recommended setting is damaged: {told(error, 200)}") from error
    return made
