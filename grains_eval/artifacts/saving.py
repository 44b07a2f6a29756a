"""Write artifact folders, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from grains_eval.artifacts.layout import (
    ADAPTER,
    ATTRIBUTIONS,
    CARD,
    CONFIG,
    PICTURES,
    RECIPE,
    TENSORS,
    TOKENS,
    ArtifactConfig,
    Origin,
    format_of,
    tensors_of,
)
from grains_eval.attribution_table import write_attributions
from grains_eval.card import write_card
from grains_eval.errors import GrainsError
from grains_eval.types import Attribution, FoundTokens, SteeringVectors, TokenSelection

_MOST_PICTURES = 5  # examples whose pictures are kept for heat maps
_PACKAGES = ("grains-eval", "torch", "transformers", "lm_eval", "captum", "scikit-learn", "peft")


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def save_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; a full disk is the error that every other file gives.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        save_file(dict(tensors), file, metadata=dict(metadata))
    except SafetensorError as error:
        number = re.search(r"os error ([0-9]+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(file)) from error


def save(
    vectors: SteeringVectors | FoundTokens | None,
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
        vectors: The vectors or found tokens; None for a LoRA or prompting artifact.
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
        raise GrainsError(
            f"'{folder}' exists; choose another --output_path or pass --overwrite (in Python: overwrite=True)"
        )
    check_replaceable(target)
    origin = {"versions": package_versions(), **(vectors.provenance if vectors else provenance or {})}
    tokens = vectors if isinstance(vectors, FoundTokens) else None
    if isinstance(vectors, FoundTokens):
        vectors = None
    config = ArtifactConfig(
        format_version=format_of(tokens),
        method=str(origin.get("method", "custom")),
        site=vectors.site if vectors else "block_output",
        hidden_size=_width(vectors, tokens),
        layers=list(vectors.layers) if vectors else list(tokens.positive.layers) if tokens else [],
        scales=dict(vectors.scales) if vectors else {},
        statistics={k: {n: _finite(x) for n, x in v.items()} for k, v in vectors.statistics.items()} if vectors else {},
        recommended=_setting(vectors, tokens),
        provenance=dict(origin),
        instruction=instruction,
        found_tokens=None if tokens is None else _origins(tokens),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    notes = {"format": "grains-eval", "format_version": str(config.format_version)}
    try:
        shown = config.model_dump(mode="json", exclude={"found_tokens"} if tokens is None else None)
        (work / CONFIG).write_text(json.dumps(shown, indent=2) + "\n", encoding="utf-8")
        if vectors is not None:
            tensors = {f"layers.{i}": vectors.directions[i].detach().float().cpu().contiguous() for i in vectors.layers}
            save_tensors(tensors, work / TENSORS, notes)
        if tokens is not None:
            save_tensors(tensors_of(tokens), work / TOKENS, notes)
        if attributions:
            write_attributions(work / ATTRIBUTIONS, attributions, selections)
        for example, images in enumerate(pictures[:_MOST_PICTURES]):
            for index, image in enumerate(images):
                (work / PICTURES).mkdir(exist_ok=True)
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


def _width(vectors: SteeringVectors | None, tokens: FoundTokens | None) -> int | None:
    if vectors is not None:
        return int(next(iter(vectors.directions.values())).shape[0])
    return None if tokens is None else int(tokens.positive.embeddings.shape[-1])


def _setting(vectors: SteeringVectors | None, tokens: FoundTokens | None) -> dict[str, Any]:
    if tokens is not None:
        return asdict(tokens.recommended)
    return {} if vectors is None else asdict(vectors.recommended)


def _origins(tokens: FoundTokens) -> dict[str, list[Origin]]:
    pools = {"positive": tokens.positive, "negative": tokens.negative}
    return {
        side: [Origin.model_validate({**asdict(one), "statistic": _finite(one.statistic)}) for one in pool.origins]
        for side, pool in pools.items()
        if pool is not None
    }


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None


def check_replaceable(target: Path) -> None:
    """Refuse to replace anything but an artifact or an empty folder.

    Raises:
        GrainsError: something else is there, or nothing can be written there.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / CONFIG).is_file()):
        raise GrainsError(f"'{target}' is not a vectors folder and will not be replaced; choose another --output_path")
    place = next(parent for parent in target.absolute().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise GrainsError(f"nothing can be written to '{place}'; choose another --output_path")
