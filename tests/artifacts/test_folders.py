"""The artifact folder: what is written comes back, and nothing else is read."""

from __future__ import annotations

import errno
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from grains_eval.artifacts import save as saving
from grains_eval.artifacts.layout import CONFIG, TENSORS, fingerprint
from grains_eval.artifacts.load import load_vectors
from grains_eval.artifacts.save import save_vectors
from grains_eval.errors import GrainsError
from grains_eval.report.token_maps import read_token_maps
from grains_eval.steering import steered
from grains_eval.types import Attribution, Patch, SteeringConfig, SteeringVectors, TokenSelection
from grains_eval.vectors.direction import direction


def vectors(width=8):
    return SteeringVectors(
        directions={1: torch.arange(width) / 3, 4: -torch.ones(width)},
        scales={1: 2.5, 4: 7.0},
        statistics={1: {"agreement": 0.25, "explained_variance": float("nan")}, 4: {}},
        recommended=SteeringConfig((4,), 0.5, "relative", "add", "prompt"),
        provenance={
            "method": "grains",
            "base_model": "org/m",
            "seed": 3,
            "doc_hashes": {"build": ["a"], "development": []},
        },
    )


def test_what_is_saved_comes_back(tmp_path):
    folder = save_vectors(vectors(), tmp_path / "v", recipe="name: x\n")
    found = load_vectors(folder)
    assert found.layers == (1, 4)
    for layer in found.layers:
        assert torch.equal(found.directions[layer], vectors().directions[layer])
        assert found.directions[layer].dtype == torch.float32
    assert found.scales == vectors().scales
    assert found.recommended == vectors().recommended
    assert found.statistics[1]["agreement"] == 0.25
    assert found.statistics[1]["explained_variance"] != found.statistics[1]["explained_variance"]
    assert found.provenance["doc_hashes"]["build"] == ["a"]
    assert fingerprint(found) == fingerprint(vectors())
    assert {file.name for file in folder.iterdir()} == {
        "steering_config.json", "steering_vectors.safetensors", "recipe.yaml", "README.md",
    }  # fmt: skip
    assert "base_model: org/m" in (folder / "README.md").read_text()


SIDED = {f"{side}.{name}" for side in ("positive", "negative") for name in direction(torch.eye(3), "mean").statistics}


@pytest.mark.parametrize(
    "names",
    [
        SIDED,
        {*direction(torch.eye(3), "mean").statistics, "share"},
        {"heads", "probe_accuracy", "best_probe_accuracy"},
        set(),
    ],
    ids=["grains", "icv", "iti", "none"],
)
def test_the_card_explains_every_column_of_its_table(names, tmp_path):
    held = replace(vectors(), statistics={1: dict.fromkeys(names, 0.5), 4: {}})
    text = (save_vectors(held, tmp_path / "v") / "README.md").read_text()
    (header,) = [line for line in text.splitlines() if line.startswith("| block |")]
    columns = [cell.strip() for cell in header.strip("| ").split("|")]
    (legend,) = [line for line in text.splitlines() if line.startswith("`block`:")]
    assert all(f"`{column.removesuffix(' +/−')}`:" in legend for column in columns)
    assert legend.count("`:") == len(columns)
    assert ("+ and −:" in legend) is any("+/−" in column for column in columns)


def test_the_fingerprint_sees_every_number_and_the_scales():
    one = vectors()
    moved = replace(one, directions={**one.directions, 4: one.directions[4] + torch.eye(8)[7] * 1e-6})
    prints = {fingerprint(v) for v in (one, moved, replace(one, scales={1: 2.5, 4: 7.1}))}
    assert len(prints) == 3


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


def test_nothing_is_replaced_without_being_asked(tmp_path):
    save_vectors(vectors(), tmp_path / "v")
    with pytest.raises(GrainsError, match="exists; choose another --output_path or pass --overwrite"):
        save_vectors(replace(vectors(), scales={1: 9.0, 4: 9.0}), tmp_path / "v")
    assert load_vectors(tmp_path / "v").scales == vectors().scales
    save_vectors(replace(vectors(), scales={1: 9.0, 4: 9.0}), tmp_path / "v", overwrite=True)
    assert load_vectors(tmp_path / "v").scales[1] == 9.0
    assert [file.name for file in tmp_path.iterdir()] == ["v"], "no temporary folder stays"


def test_a_failure_while_writing_leaves_what_was_there(tmp_path, monkeypatch):
    save_vectors(vectors(), tmp_path / "v")
    monkeypatch.setattr(saving, "write_card", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for target in ("v", "w"):
        with pytest.raises(OSError, match="No space left"):
            save_vectors(replace(vectors(), scales={1: 9.0, 4: 9.0}), tmp_path / target, overwrite=True)
    assert load_vectors(tmp_path / "v").scales == vectors().scales
    assert [file.name for file in tmp_path.iterdir()] == ["v"]


def test_tensors_that_cannot_be_written_are_an_error_of_the_operating_system(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as caught:
        saving.save_tensors({"a": torch.zeros(2)}, tmp_path / "gone" / "a", {})
    assert caught.value.filename == str(tmp_path / "gone" / "a")
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(saving, "save_file", lambda *a, **k: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_vectors(vectors(), tmp_path / "v")
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def damage(folder, **changes):
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: damage(f, format_version=2), "has format 2 but this version reads up to 1; upgrade"),
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


def test_attributions_and_pictures_travel_with_the_vectors(tmp_path):
    attribution = Attribution(
        "e:0", ("a", "<img>"), torch.tensor([0.5, -1.0]), torch.tensor([False, True]), torch.tensor([True, True]),
        2.0, 2.5, 0.01, 20, (None, Patch(0, 1, 2, (0.5, 0.25, 0.75, 0.5))),
    )  # fmt: skip
    folder = save_vectors(
        vectors(), tmp_path / "v", attributions=[attribution], selections=[TokenSelection((0,), (1,))],
        pictures=[[Image.new("RGB", (4, 4), (9, 8, 7))]],
    )  # fmt: skip
    (drawn,) = read_token_maps(folder)
    assert drawn.tokens == ("a", "<img>")
    assert drawn.scores == (0.5, -1.0)
    assert drawn.selected == {0, 1}
    assert drawn.boxes == (None, (0, (0.5, 0.25, 0.75, 0.5)))
    assert len(drawn.pictures) == 1
    assert drawn.pictures[0].startswith(b"\x89PNG")
    assert "completeness error 1.00 %" in drawn.note


def test_overwrite_replaces_artifacts_and_nothing_else(tmp_path):
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years")
    with pytest.raises(GrainsError, match="is not a vectors folder and will not be replaced"):
        save_vectors(vectors(), foreign, overwrite=True)
    assert (foreign / "thesis.txt").read_text() == "years"
    (tmp_path / "empty").mkdir()
    save_vectors(vectors(), tmp_path / "empty", overwrite=True)
