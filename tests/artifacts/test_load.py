"""What is written comes back, and nothing else is read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from grains_eval.artifacts.layout import CONFIG, TENSORS
from grains_eval.artifacts.load import load_vectors
from grains_eval.artifacts.save import save_vectors
from grains_eval.errors import GrainsError
from grains_eval.steering import steered
from grains_eval.types import SteeringConfig
from tests.artifacts.samples import vectors


def damage(folder, **changes):
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: damage(f, format_version=4), "has format 4 but this version reads up to 3; upgrade"),
        (lambda f: damage(f, layers=[1, 4, 5]), "disagree about layers.5"),
        (lambda f: damage(f, layers=[1]), "disagree about layers.4"),
        (lambda f: damage(f, hidden_size=9), r"has shape \[8\], expected \[9\]"),
        (lambda f: damage(f, site="somewhere"), "is not a steering config: site"),
        (lambda f: damage(f, recommended={"strenght": 1}), "recommended setting is damaged"),
        (lambda f: (f / CONFIG).unlink(), "has no steering_config.json"),
        (lambda f: (f / CONFIG).write_text("{"), "is damaged"),
        (lambda f: (f / CONFIG).write_text("[]"), "is damaged"),
        (lambda f: (f / TENSORS).unlink(), "missing or damaged"),
        (lambda f: (f / TENSORS).write_bytes(b"\x00" * 40), "missing or damaged"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused_in_one_line(tmp_path, spoil, says):
    folder = save_vectors(vectors(), tmp_path / "v")
    spoil(folder)
    with pytest.raises(GrainsError, match=says) as caught:
        load_vectors(folder)
    assert "\n" not in str(caught.value)


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    built = replace(vectors(), directions={1: torch.full((8,), torch.nan), 4: torch.ones(8)})
    with pytest.raises(GrainsError, match="not finite"):
        load_vectors(save_vectors(built, tmp_path / "v"))


def test_pickles_are_never_opened(tmp_path):
    torch.save({"x": 1}, tmp_path / "v.pt")
    for name in ("v.pt", "missing.pkl"):
        with pytest.raises(GrainsError, match="pickles are never opened"):
            load_vectors(tmp_path / name)


def test_a_missing_folder_and_an_unreachable_hub_id(tmp_path):
    with pytest.raises(GrainsError, match="does not exist; give a folder or a hub id"):
        load_vectors(tmp_path / "none")
    with pytest.raises(GrainsError, match="neither a local folder nor a reachable hub repository"):
        load_vectors("nobody/nothing@main")


def test_a_loaded_vector_steers_alike(tmp_path, loaded_text):
    model = loaded_text("llama").model
    built = vectors(int(model.config.hidden_size))
    built = replace(built, directions={0: built.directions[1]}, scales={0: 4.0}, recommended=SteeringConfig())
    loaded = load_vectors(save_vectors(built, tmp_path / "v"))
    ids = torch.tensor([[1, 270, 280]])
    with torch.no_grad(), steered(model, built):
        expected = model(ids).logits
    with torch.no_grad(), steered(model, loaded):
        assert torch.equal(model(ids).logits, expected)
