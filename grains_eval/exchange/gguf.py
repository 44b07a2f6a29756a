"""llama.cpp's control vectors: a GGUF file of architecture `controlvector`.

Tensors `direction.N`, float32, one dimension, are added to the output of decoder layer N, counted from 0. The loader
refuses layer 0, for which its buffer has no room: there `direction.N` stands at place N - 1
(`common_control_vector_load`, `llama_adapter_cvec::apply`). `controlvector.model_hint` and `.layer_count` are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grains_eval.errors import GrainsError, told
from grains_eval.exchange.portable import PortableVectors, layer_number, parse_record
from grains_eval.exchange.registry import FORMATS, Format

_ARCHITECTURE = "controlvector"
_RECORD = "grains_eval.record"
_NOTES = "grains_eval.notes"


def _package() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise GrainsError("GGUF files need the package gguf; pip install 'grains-eval[gguf]'") from error
    return gguf


def write_gguf(vectors: PortableVectors, file: Path, fields: Mapping[str, str] | None = None) -> None:
    """Write a control vector.

    Args:
        vectors: What to write.
        file: Where to.
        fields: Further strings among its metadata.
    """
    writer = _package().GGUFWriter(file, _ARCHITECTURE)
    try:
        writer.add_string(f"{_ARCHITECTURE}.model_hint", vectors.model_type)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(vectors.deltas))
        for key, value in (fields or {}).items():
            writer.add_string(key, value)
        if vectors.notes:
            writer.add_string(_NOTES, "\n".join(vectors.notes))
        if vectors.record is not None:
            writer.add_string(_RECORD, vectors.record.model_dump_json())
        for layer in vectors.layers:
            writer.add_tensor(f"direction.{layer}", vectors.deltas[layer].detach().float().cpu().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def read_gguf(file: Path) -> PortableVectors:
    """Read a control vector of any of the tools that write them.

    Raises:
        GrainsError: the file is damaged, no control vector, or quantised.
    """
    found, tensors = _contents(file)
    if found.get("general.architecture") != _ARCHITECTURE:
        raise GrainsError(
            f"'{file}' is a GGUF file of architecture '{told(found.get('general.architecture'))}', no control vector"
        )
    record = found.get(_RECORD)
    return PortableVectors(
        tensors,
        str(found.get(f"{_ARCHITECTURE}.model_hint", "unknown")),
        str(found.get(f"{_ARCHITECTURE}.method", "unknown")),
        None if record is None else parse_record(str(record)),
    )


def fields_of(file: Path) -> dict[str, Any]:
    """The metadata of a GGUF file; empty where it is none."""
    if not is_gguf(file):
        return {}
    return _contents(file)[0]


def is_gguf(file: Path) -> bool:
    """Whether a file begins as GGUF files do."""
    with file.open("rb") as content:
        return content.read(4) == b"GGUF"


def _contents(file: Path) -> tuple[dict[str, Any], dict[int, Tensor]]:
    package = _package()
    try:
        reader = package.GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = [(str(tensor.name), np.array(tensor.data)) for tensor in reader.tensors]
    except Exception as error:  # the package raises whatever a wrong length leads to
        raise GrainsError(f"'{file}' is not a readable GGUF file: {type(error).__name__}: {told(error)}") from error
    directions: dict[int, Tensor] = {}
    for name, values in tensors:
        kind, _, layer = name.partition(".")
        if kind != "direction":
            continue
        if not (layer.isascii() and layer.isdigit()):
            raise GrainsError(f"'{file}' holds a tensor '{told(name)}'; a control vector has direction.LAYER")
        if values.dtype.kind != "f":
            raise GrainsError(f"'{file}': {told(name)} is of type {values.dtype}; llama.cpp and we read float32")
        directions[layer_number(layer, directions)] = torch.from_numpy(values.astype(np.float32))
    return fields, directions


def _recognises(file: Path) -> bool:
    return is_gguf(file)


FORMATS.add(
    "gguf",
    Format(
        "llama.cpp's control vectors",
        ".gguf",
        write_gguf,
        read_gguf,
        _recognises,
        use="llama-server --model MODEL.gguf --control-vector FILE",
        first_layer=1,
        layer_note=(
            "direction.N acts on the output of decoder layer N counted from 0, which is hidden_states[N + 1] of "
            "transformers; llama.cpp steers no layer 0"
        ),
    ),
    __name__,
)
