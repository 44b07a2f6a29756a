"""The artifact folder: save, load and identify steering vectors.

`steering_config.json` (everything but tensors), `steering_vectors.safetensors` (keys `layers.{i}`, float32, unscaled),
`attributions.parquet` (per example and token), `recipe.yaml` as run, `README.md` card. A LoRA baseline keeps a
standard peft folder `adapter/` instead of tensors; a prompting baseline keeps its instruction in the config. Nothing
is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from grains_eval.attribution_table import write_attributions
from grains_eval.card import write_card
from grains_eval.errors import GrainsError
from grains_eval.types import Attribution, Site, SteeringConfig, SteeringVectors, TokenSelection

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CONFIG = "steering_config.json"
TENSORS = "steering_vectors.safetensors"
ATTRIBUTIONS = "attributions.parquet"
RECIPE = "recipe.yaml"
CARD = "README.md"
ADAPTER = "adapter"
PICTURES = "pictures"
_MOST_PICTURES = 5  # examples whose pictures are kept for heat maps
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".npy", ".npz"}
_PACKAGES = ("grains-eval", "torch", "transformers", "lm_eval", "captum", "scikit-learn", "peft")


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


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def fingerprint(vectors: SteeringVectors) -> str:
    """16 hex digits over site, scales and every number of the directions."""
    digest = hashlib.sha256(vectors.site.encode())
    for layer in vectors.layers:
        digest.update(f"{layer}:{vectors.scales.get(layer)}".encode())
        digest.update(vectors.directions[layer].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save(
    vectors: SteeringVectors | None,
    folder: str | Path,
    *,
    attributions: Sequence[Attribution] = (),
    selections: Sequence[TokenSelection] = (),
    recipe: str | None = None,
    adapter: Path | None = None,
    instruction: str | None = None,
    pictures: Sequence[Sequence[Image]] = (),
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an artifact folder: first beside its place, then renamed, so that a failure leaves nothing half written.

    Args:
        vectors: The vectors; None for a LoRA or prompting artifact.
        folder: Where to.
        attributions: Scores behind the vectors, one per example.
        selections: What was masked, in the same order.
        recipe: The recipe's YAML as run.
        adapter: A peft folder to copy in.
        instruction: The prompting baseline's instruction.
        pictures: The pictures of each example, in the order of `attributions`; the first examples' are kept.
        provenance: Stands in for the vectors' own where there are none.
        overwrite: Replace an existing folder.

    Returns:
        The folder.

    Raises:
        GrainsError: the folder exists and may not be replaced.
    """
    target = Path(folder)
    if target.exists() and not overwrite:
        raise GrainsError(f"'{folder}' exists; choose another --output_path or pass --overwrite")
    check_replaceable(target)
    origin = {"versions": package_versions(), **(vectors.provenance if vectors else provenance or {})}
    config = ArtifactConfig(
        format_version=FORMAT_VERSION,
        method=str(origin.get("method", "custom")),
        site=vectors.site if vectors else "block_output",
        hidden_size=int(next(iter(vectors.directions.values())).shape[0]) if vectors else None,
        layers=list(vectors.layers) if vectors else [],
        scales=dict(vectors.scales) if vectors else {},
        statistics={k: {n: _finite(x) for n, x in v.items()} for k, v in vectors.statistics.items()} if vectors else {},
        recommended=asdict(vectors.recommended) if vectors else {},
        provenance=dict(origin),
        instruction=instruction,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        (work / CONFIG).write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
        if vectors is not None:
            tensors = {f"layers.{i}": vectors.directions[i].detach().float().cpu().contiguous() for i in vectors.layers}
            save_file(
                tensors, work / TENSORS, metadata={"format": "grains-eval", "format_version": str(FORMAT_VERSION)}
            )
        if attributions:
            write_attributions(work / ATTRIBUTIONS, attributions, selections)
        for example, images in enumerate(pictures[:_MOST_PICTURES]):
            (work / PICTURES).mkdir(exist_ok=True)
            for index, image in enumerate(images):
                image.convert("RGB").save(work / PICTURES / f"{example}-{index}.png")
        if recipe is not None:
            (work / RECIPE).write_text(recipe, encoding="utf-8")
        if adapter is not None:
            shutil.copytree(adapter, work / ADAPTER)
        (work / CARD).write_text(write_card(config.model_dump(), target.name), encoding="utf-8")
        work.chmod(0o755)  # mkdtemp and safetensors write for the owner alone
        for file in work.iterdir():
            if file.is_file():
                file.chmod(0o644)
        if target.exists():
            old = Path(mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            target.rename(old / target.name)
            work.rename(target)
            shutil.rmtree(old)
        else:
            work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return target


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None


def check_replaceable(target: Path) -> None:
    """Refuse to replace anything but an artifact or an empty folder.

    Raises:
        GrainsError: something else is there.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / CONFIG).is_file()):
        raise GrainsError(f"'{target}' is not a vectors folder and will not be replaced; choose another --output_path")


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
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=[CONFIG, TENSORS, RECIPE, CARD, ATTRIBUTIONS, f"{ADAPTER}/*", f"{PICTURES}/*"],
            )
        )
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
        raise GrainsError(f"'{folder}' has no {CONFIG}: it is no vectors folder; build one with grains-eval build")
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
    return Artifact(config.method, _read_vectors(folder, config), None, None, config.provenance)


def load(source: str | Path) -> SteeringVectors:
    """Load steering vectors from a folder or hub id.

    Raises:
        GrainsError: see `open_artifact`; or the artifact holds an adapter or a prompt instead of vectors.
    """
    vectors = open_artifact(source).vectors
    if vectors is None:
        raise GrainsError(f"'{source}' holds no vectors but an adapter or an instruction; evaluate it with grains_hf")
    return vectors


def _read_vectors(folder: Path, config: ArtifactConfig) -> SteeringVectors:
    try:
        tensors = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise GrainsError(f"'{folder / TENSORS}' is missing or damaged: {error}; build the vectors again") from error
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
