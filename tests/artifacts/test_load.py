"""What is written comes back, and nothing else is read."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from grains_eval.artifacts.layout import CONFIG, TENSORS, ArtifactContents
from grains_eval.artifacts.load import load_vectors, open_artifact
from grains_eval.artifacts.save import save_artifact, save_vectors
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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "is damaged: maximum recursion depth"),
        ('{"format_version": ' + "9" * 5000 + "}", "is damaged: Exceeds the limit"),
        ('{"format_version": ' + "9" * 4000 + "}", "has format 9{20}… but this version"),
        ('{"format_version": "4", "method": "x"}', "has format 4 but this version"),
        ('{"format_version": 0, "method": "x"}', "format_version: Input should be greater"),
        ('{"format_version": 1, "method": "x", "statistics": {"a\\nb": {}}}', "statistics.a b"),
        ('{"format_version": 1, "method": "x", "layers": [1, 1]}', "layers: 1 stands there twice"),
        ('{"format_version": 1, "method": "x", "scales": {"1": Infinity}}', "scales.1: Input should be a finite"),
        ('{"format_version": 1, "method": "x", "layers": [1e30]}', "layers.0: "),
    ],
)
def test_json_that_python_cannot_read_is_refused_in_one_line(tmp_path, text, says):
    folder = save_vectors(vectors(), tmp_path / "v")
    (folder / CONFIG).write_text(text)
    with pytest.raises(GrainsError, match=says) as caught:
        load_vectors(folder)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "setting",
    [
        {"layers": [10**30]},
        {"layers": [True]},
        {"layers": [-1]},
        {"strength": 10**400},
        {"operator": []},
        {"layers": 3},
        {"strength": None},
    ],
)
def test_a_recommended_setting_that_cannot_be_applied_is_refused(tmp_path, setting):
    folder = save_vectors(vectors(), tmp_path / "v")
    damage(folder, recommended=setting)
    with pytest.raises(GrainsError, match="the recommended setting is damaged"):
        load_vectors(folder)


def test_half_precision_is_read_and_other_numbers_are_refused(tmp_path):
    folder = save_vectors(vectors(), tmp_path / "v")
    held = load_file(folder / TENSORS)
    save_file({name: each.half() for name, each in held.items()}, folder / TENSORS)
    assert load_vectors(folder).directions[4].dtype == torch.float32
    for tensor, says in (
        (held["layers.1"].int(), "is of type torch.int32"),
        (torch.ones(8).double() * 1e300, "finite"),
    ):
        save_file({**held, "layers.1": tensor}, folder / TENSORS)
        with pytest.raises(GrainsError, match=says):
            load_vectors(folder)


@pytest.mark.parametrize("name", (CONFIG, TENSORS))
def test_links_may_not_lead_out_of_the_folder(tmp_path, name):
    folder = save_vectors(vectors(), tmp_path / "v")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GrainsError, match="is a link that leads out of the folder"):
        load_vectors(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(folder / name)
    with pytest.raises(GrainsError, match=r"cannot be read|missing|has no"):
        load_vectors(folder)
    (folder / name).unlink()
    (tmp_path / "elsewhere").rename(folder / "beside")
    (folder / name).symlink_to("beside")
    (tmp_path / "link").symlink_to(folder)
    assert load_vectors(tmp_path / "link").layers == (1, 4)


def test_the_links_of_the_hubs_cache_are_followed(tmp_path):
    folder = save_vectors(vectors(), tmp_path / "models--org--v" / "snapshots" / "abc")
    (tmp_path / "models--org--v" / "blobs").mkdir()
    for file in list(folder.iterdir()):
        file.rename(tmp_path / "models--org--v" / "blobs" / file.name)
        file.symlink_to(f"../../blobs/{file.name}")
    assert load_vectors(folder).layers == (1, 4)


def test_a_pipe_is_not_waited_for(tmp_path):
    folder = save_vectors(vectors(), tmp_path / "v")
    (folder / TENSORS).unlink()
    os.mkfifo(folder / TENSORS)
    with pytest.raises(GrainsError, match="there is no such file"):
        load_vectors(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "there is no such file"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x00" * 9), "is damaged"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "holds no JSON object"),
    ],
)
def test_an_adapter_that_peft_would_unpickle_or_fail_on_is_refused(tmp_path, spoil, says):
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    save_file({"a": torch.ones(2)}, tmp_path / "peft" / "adapter_model.safetensors")
    folder = save_artifact(ArtifactContents(adapter=tmp_path / "peft", provenance={"method": "lora"}), tmp_path / "v")
    assert open_artifact(folder).adapter == folder / "adapter"
    spoil(folder / "adapter")
    with pytest.raises(GrainsError, match=says):
        open_artifact(folder)


def test_places_that_are_no_artifact(tmp_path):
    for name in ("x" * 5000, "a\0b", "org/name@../../secret", "a\nb"):
        with pytest.raises(GrainsError) as caught:
            open_artifact(name)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500, name
