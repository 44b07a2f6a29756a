"""Export an artifact to a file of another tool, and import one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grains_eval.artifacts.layout import Artifact
from grains_eval.artifacts.save import check_writable, save_vectors
from grains_eval.errors import GrainsError, pick
from grains_eval.exchange.portable import from_portable, to_portable
from grains_eval.exchange.registry import FORMATS, losses
from grains_eval.files import whole_file
from grains_eval.harness.arguments import AppliedArtifact, parse_steering
from grains_eval.types import SteeringConfig, SteeringVectors


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        file: Where it is.
        notes: What it cannot say of how the vectors were meant, one line each.
        use: How its tool loads it.
    """

    file: Path
    notes: tuple[str, ...]
    use: str


def export_artifact(
    source: str | Path,
    format: str,
    file: Path | None = None,
    setting: Mapping[str, Any] | None = None,
    model_args: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write an artifact's vectors as another tool reads them, with the setting they are applied with.

    Args:
        source: A folder, or a hub id.
        format: A name in `FORMATS`.
        file: Where to; default beside the folder (of a hub id: in the working directory), with the format's suffix.
        setting: `strength`, `layers`, `unit`, as `grains_hf` takes them; default as the artifact recommends.
        model_args: Of the base model, for formats that name its modules; default as the artifact says.
        overwrite: Replace a file that is there.

    Raises:
        GrainsError: an unknown format, an artifact without vectors, what the format cannot hold, or a file is there.
    """
    made = pick(FORMATS, format, FORMATS.what)
    vectors, config = _applied(str(source), setting or {})
    portable = to_portable(vectors, config, model_args or {})
    portable = replace(portable, notes=losses(made, format, config, portable.layers))
    target = file or _beside(source, made.suffix)
    _check_free(target, overwrite)
    with whole_file(target) as part:
        made.write(portable, part)
    return Exported(target, portable.notes, made.use.replace("FILE", str(target)))


def _applied(source: str, setting: Mapping[str, Any]) -> tuple[SteeringVectors, SteeringConfig]:
    artifacts = parse_steering(source, **setting)
    if len(artifacts) != 1:
        raise GrainsError(f"'{source}' names {len(artifacts)} artifacts; export them one by one")
    item: AppliedArtifact = artifacts[0]
    if item.artifact.vectors is None or not isinstance(item.config, SteeringConfig):
        raise GrainsError(f"'{source}' holds {_held(item.artifact)}; the formats hold steering vectors only")
    origin = {"method": item.artifact.method, **item.artifact.provenance}
    return replace(item.artifact.vectors, provenance=origin), item.config


def _held(artifact: Artifact) -> str:
    """What an artifact without vectors holds, in words."""
    kinds = {
        "found tokens": artifact.tokens,
        "an adapter": artifact.adapter,
        "an instruction": artifact.instruction,
        "a contrast of contexts": artifact.contrast,
    }
    return next(name for name, held in kinds.items() if held is not None)


def _beside(source: str | Path, suffix: str) -> Path:
    place = Path(source)
    if place.is_dir():
        resolved = place if place.name not in ("", ".", "..") else place.resolve()
        return resolved.with_name(resolved.name + suffix)
    return Path(str(source).partition("@")[0].rpartition("/")[2] + suffix)


def _check_free(file: Path, overwrite: bool) -> None:
    if os.path.lexists(file) and not (overwrite and file.is_file()):
        advice = "choose another --output_path" + (" or pass --overwrite" if file.is_file() else "")
        raise GrainsError(f"'{file}' exists; {advice}")
    check_writable(file.absolute().parent)


def import_file(
    file: Path,
    folder: Path | None = None,
    format: str | None = None,
    base_model: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, SteeringVectors]:
    """Make an artifact folder from another tool's file. Nothing is unpickled.

    Args:
        file: The file.
        folder: Where to; default beside the file, without its suffix.
        format: A name in `FORMATS`; default as the file's content says.
        base_model: The model that the vectors are for, which most files do not say.
        overwrite: Replace an artifact that is there.

    Returns:
        The folder and what it holds.

    Raises:
        GrainsError: no such file, an unknown format, a damaged file, or a folder that is there.
    """
    if not file.is_file():
        raise GrainsError(f"'{file}' is not a file; give a file of {', '.join(sorted(FORMATS))}")
    name = format or recognise(file)
    found = pick(FORMATS, name, FORMATS.what).read(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    vectors = from_portable(found, {"format": name, "file": file.name, "sha256": digest})
    if base_model is not None:
        vectors = replace(vectors, provenance={**vectors.provenance, "base_model": base_model})
    target = folder or file.with_name(_stem(file, FORMATS[name].suffix))
    return save_vectors(vectors, target, overwrite=overwrite), vectors


def _stem(file: Path, suffix: str) -> str:
    """The file's name without the suffix of its format, or without its last one."""
    stem = file.name.removesuffix(suffix)
    return stem if stem not in ("", file.name) else file.stem


def recognise(file: Path) -> str:
    """The format of a file, by its content.

    Raises:
        GrainsError: it is of none that is known.
    """
    found = [name for name, made in FORMATS.items() if made.recognises(file)]
    if not found:
        raise GrainsError(
            f"'{file}' is of no format that is known ({', '.join(sorted(FORMATS))}); give a GGUF file, or a .pt or "
            ".pth file of torch.save"
        )
    return next((name for name in found if name != "gguf"), found[0])  # others are kinds of it
