"""Artifacts to export, and files as other tools write them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from grains_eval.artifacts.save import save_vectors
from grains_eval.types import SteeringConfig, SteeringVectors

# layer 2 is given; the recommended setting steers layers 1 and 2 of it
SETTING = SteeringConfig((1, 2), 0.5, "relative", "add", "all")


def vectors(width=32, base_model=None, **changes):
    generator = torch.Generator().manual_seed(3)
    made = SteeringVectors(
        directions={layer: torch.randn(width, generator=generator) * 10**layer for layer in range(3)},
        scales={0: 1.5, 1: 2.5, 2: 7.0},
        recommended=SETTING,
        provenance={
            "method": "caa",
            "base_model": base_model,
            "architecture": "LlamaForCausalLM",
            "examples": 4,
            "doc_hashes": {"build": ["a" * 64], "development": []},
        },
    )
    return replace(made, **changes)


def artifact(folder, **changes):
    return save_vectors(vectors(**changes), folder)


def control_vector(file, directions, architecture="controlvector", **fields):
    """A GGUF file as repeng, EasySteer or llama.cpp's own generator writes it."""
    gguf = __import__("gguf")
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_string("controlvector.model_hint", "qwen2")
    writer.add_int32("controlvector.layer_count", len(directions))
    for key, value in fields.items():
        writer.add_string(f"controlvector.{key}", value)
    for name, direction in directions.items():
        writer.add_tensor(name, np.asarray(direction))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
