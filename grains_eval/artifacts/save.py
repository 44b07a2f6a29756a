"""Write artifact folders, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from grains_eval.artifacts.attributions import write_attributions
from grains_eval.artifacts.card import write_card
from grains_eval.artifacts.layout import (
    ADAPTER,
    ATTRIBUTIONS,
    CARD,
    CONFIG,
    IMAGES,
    RECIPE,
    TENSORS,
    TOKENS,
    ArtifactConfig,
    ArtifactContents,
    ContrastConfig,
    Origin,
    format_of,
    tensors_of,
)
from grains_eval.errors import GrainsError
from grains_eval.files import whole_folder
from grains_eval.types import FoundTokens, SteeringVectors
from grains_eval.versions import package_versions

_MOST_EXAMPLES = 5  # whose images are kept for heat maps
_NOTE = ("format", "grains-eval")  # of safetensors files


def save_vectors(vectors: SteeringVectors, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write steering vectors as an artifact folder; see `save_artifact`.

    Args:
        vectors: The vectors.
        folder: Where to.
        overwrite: Replace an existing folder.

    Returns:
        The folder.

    Raises:
        GrainsError: the folder exists and may not be replaced.
    """
    return save_artifact(ArtifactContents(vectors), folder, overwrite=overwrite)


def save_artifact(contents: ArtifactContents, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write an artifact folder; a failure leaves nothing half written and whatever was there unchanged.

    Args:
        contents: What it will hold.
        folder: Where to.
        overwrite: Replace an existing folder.

    Returns:
        The folder.

    Raises:
        GrainsError: the folder exists and may not be replaced.
    """
    target = Path(folder)
    check_replaceable(target, overwrite=overwrite)
    config = _config(contents)
    with whole_folder(target) as work:
        _write(contents, config, work, target.name)
    return target


def _config(contents: ArtifactContents) -> ArtifactConfig:
    """What `steering_config.json` will hold."""
    vectors, tokens, origin = contents.vectors, contents.tokens, contents.provenance
    if origin is None:
        origin = vectors.provenance if vectors is not None else tokens.provenance if tokens is not None else {}
    origin = {"versions": package_versions(), **origin}
    named = ArtifactConfig(
        format_version=format_of(contents),
        method=str(origin.get("method", "custom")),
        provenance=origin,
        instruction=contents.instruction,
    )
    described: dict[str, Any] = {}
    if contents.contrast is not None:
        described = {"contrast": ContrastConfig.model_validate(asdict(contents.contrast))}
    if vectors is not None:
        described = {
            "site": vectors.site,
            "hidden_size": int(next(iter(vectors.directions.values())).shape[0]),
            "layers": list(vectors.layers),
            "scales": dict(vectors.scales),
            "statistics": {k: {n: _finite(x) for n, x in v.items()} for k, v in vectors.statistics.items()},
            "recommended": asdict(vectors.recommended),
        }
    if tokens is not None:
        described = {
            "hidden_size": int(tokens.positive.embeddings.shape[-1]),
            "layers": list(tokens.positive.layers),
            "recommended": asdict(tokens.recommended),
            "found_tokens": _origins(tokens),
        }
    return named.model_copy(update=described)


def _origins(tokens: FoundTokens) -> dict[str, list[Origin]]:
    pools = {"positive": tokens.positive, "negative": tokens.negative}
    return {
        side: [Origin.model_validate({**asdict(one), "statistic": _finite(one.statistic)}) for one in pool.origins]
        for side, pool in pools.items()
        if pool is not None
    }


def _write(contents: ArtifactContents, config: ArtifactConfig, folder: Path, name: str) -> None:
    """Fill an empty folder; `name` is the heading of its card."""
    kinds = {"found_tokens": contents.tokens, "contrast": contents.contrast}  # which older versions do not know
    shown = config.model_dump(mode="json", exclude={name for name, held in kinds.items() if held is None})
    (folder / CONFIG).write_text(json.dumps(shown, indent=2) + "\n", encoding="utf-8")
    if contents.vectors is not None:
        directions = contents.vectors.directions
        tensors = {f"layers.{i}": directions[i].detach().float().cpu().contiguous() for i in contents.vectors.layers}
        save_tensors(tensors, folder / TENSORS, _NOTE)
    if contents.tokens is not None:
        save_tensors(tensors_of(contents.tokens), folder / TOKENS, _NOTE)
    if contents.attributions:
        write_attributions(folder / ATTRIBUTIONS, contents.attributions, contents.selections)
    for example, images in enumerate(contents.images[:_MOST_EXAMPLES]):
        for index, image in enumerate(images):
            (folder / IMAGES).mkdir(exist_ok=True)
            image.convert("RGB").save(folder / IMAGES / f"{example}-{index}.png")
    if contents.recipe is not None:
        (folder / RECIPE).write_text(contents.recipe, encoding="utf-8")
    if contents.adapter is not None:
        shutil.copytree(contents.adapter, folder / ADAPTER)
    # halves of surrogate pairs, which YAML and JSON can name, are in no text file
    (folder / CARD).write_text(write_card(config.model_dump(), name), encoding="utf-8", errors="replace")


def save_tensors(tensors: Mapping[str, Tensor], file: Path, note: tuple[str, str]) -> None:
    """Write a safetensors file, the same bytes every time; a full disk raises the same error as for any other file.

    Args:
        tensors: What it holds.
        file: Where to.
        note: The one entry of its metadata; of several, safetensors would write one or another first.

    Raises:
        OSError: the file cannot be written.
    """
    # not `save_file`, which puts another file in the place of one that is locked
    file.write_bytes(save(dict(tensors), metadata=dict([note])))


def check_replaceable(target: Path, *, overwrite: bool = True) -> None:
    """Refuse to replace what may not be replaced: anything but an artifact or an empty folder.

    Args:
        target: The folder to be written.
        overwrite: Whether an artifact may be replaced.

    Raises:
        GrainsError: the target may not be replaced, or nothing can be written there.
    """
    if target.exists() and not overwrite:
        raise GrainsError(
            f"'{target}' exists; choose another --output_path or pass --overwrite (in Python: overwrite=True)"
        )
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / CONFIG).is_file()):
        raise GrainsError(f"'{target}' is not a vectors folder and will not be replaced; choose another --output_path")
    check_writable(target.absolute().parent)


def check_writable(folder: Path) -> None:
    """Refuse a folder where nothing can be written, or that cannot be made.

    Raises:
        GrainsError: it is a file, lies in one, or may not be written to.
    """
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    if not place.is_dir():
        raise GrainsError(f"nothing can be written to '{place}': it is not a folder; choose another --output_path")
    if not os.access(place, os.W_OK | os.X_OK):
        raise GrainsError(f"nothing can be written to '{place}': no permission; choose another --output_path")


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None
