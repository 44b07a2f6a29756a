"""Artifacts to files of other tools and back: same directions, same effect, nothing overwritten, nothing hidden."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from grains_eval import cli
from grains_eval.artifacts.layout import ArtifactContents
from grains_eval.artifacts.load import load_vectors
from grains_eval.artifacts.save import save_artifact
from grains_eval.errors import GrainsError
from grains_eval.exchange.registry import FORMATS
from grains_eval.exchange.transfer import export_artifact, import_file, recognise
from grains_eval.steering import steered
from grains_eval.types import Contrast, SteeringConfig
from tests.exchange.files import SETTING, artifact, vectors
from tests.virtual_tokens.models import made, some_found

pytest.importorskip("gguf")
NAMES = ("gguf", "lm_eval_steered", "repeng", "steering_vectors", "easysteer")
WITH_RECORD = ("gguf", "repeng", "easysteer")


@pytest.fixture
def folder(tmp_path, tiny_text):
    return artifact(tmp_path / "ours", base_model=str(tiny_text("llama")))


def test_every_format_is_in_the_table():
    assert set(FORMATS) == set(NAMES)


def logits(model, found, config):
    ids = torch.tensor([[5, 9, 11, 30, 4]])
    with torch.no_grad(), steered(model.model, found, config):
        return model.model(ids).logits


@pytest.mark.parametrize("name", NAMES)
def test_a_round_trip_keeps_directions_and_effect(name, folder, tmp_path, loaded_text):
    made = export_artifact(folder, name)
    assert made.file == folder.with_name(f"ours{FORMATS[name].suffix}")
    back, found = import_file(made.file, tmp_path / "back")
    original, written = load_vectors(folder), load_vectors(back)
    assert written.layers == (1, 2)  # what was applied
    for layer in written.layers:
        own, theirs = original.directions[layer], written.directions[layer]
        torch.testing.assert_close(
            theirs / theirs.norm(), own / own.norm(), rtol=2**-11, atol=1e-6
        )  # float16's rounding
        if name in WITH_RECORD:
            torch.testing.assert_close(theirs, own, rtol=1e-5, atol=0)
    assert all(torch.equal(found.directions[layer], written.directions[layer]) for layer in written.layers)
    model = loaded_text("llama")
    steered_logits = logits(model, original, SETTING)
    assert not torch.allclose(steered_logits, logits(model, original, replace(SETTING, strength=0.0)))
    torch.testing.assert_close(logits(model, written, written.recommended), steered_logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_known_by_its_content(name, folder, tmp_path):
    file = export_artifact(folder, name, tmp_path / f"vector{FORMATS[name].suffix[-5:]}").file
    assert recognise(file) == ("gguf" if name == "repeng" else name)


@pytest.mark.parametrize("name", WITH_RECORD)
def test_formats_with_room_give_the_artifact_back(name, folder, tmp_path):
    back, found = import_file(export_artifact(folder, name).file, tmp_path / "back")
    assert found.scales == {1: 2.5, 2: 7.0}
    assert found.recommended == SETTING
    assert found.provenance["doc_hashes"]["build"] == ["a" * 64]
    assert found.provenance["imported"]["file"] == f"ours{FORMATS[name].suffix}"
    assert "made with `caa` from 4 preference examples" in (back / "README.md").read_text()


@pytest.mark.parametrize("name", ("lm_eval_steered", "steering_vectors"))
def test_a_file_without_record_counts_in_its_own_lengths(name, folder, tmp_path):
    back, found = import_file(export_artifact(folder, name).file, tmp_path / "back", base_model="org/m")
    assert found.recommended == SteeringConfig(None, 1.0, "absolute", "add", "all")
    assert found.scales[1] == pytest.approx(0.5 * 2.5) and found.scales[2] == pytest.approx(0.5 * 7.0)
    card = (back / "README.md").read_text()
    assert "for `org/m`, imported from `ours." in card and "length of the imported vector" in card
    assert "median token norm" not in card


@pytest.mark.parametrize("name", NAMES)
def test_what_a_format_cannot_hold_is_said(name, tmp_path, tiny_text):
    setting = replace(SETTING, operator="add_renormalised", positions="prompt")
    folder = artifact(tmp_path / "ours", base_model=str(tiny_text("llama")), recommended=setting)
    notes = "\n".join(export_artifact(folder, name).notes)
    assert "layers 1, 2 hold strength 0.5 (relative): load them at scale 1" in notes
    assert "operator add_renormalised is not in the file" in notes and "positions prompt are not in the file" in notes
    assert ("normalize=True" in notes) is (name in ("repeng", "easysteer"))
    assert ("direction.N acts on the output of decoder layer N counted from 0" in notes) is (name == "gguf")
    (tmp_path / "plain").mkdir()
    plain = artifact(tmp_path / "plain" / "ours", base_model=str(tiny_text("llama")))
    assert "not in the file" not in "\n".join(export_artifact(plain, name).notes)


def test_another_setting_is_exported_on_request(folder, tmp_path):
    made = export_artifact(
        folder, "repeng", tmp_path / "x.gguf", {"strength": "-2", "layers": "0-1", "unit": "absolute"}
    )
    _, found = import_file(made.file, tmp_path / "back")
    assert found.recommended == SteeringConfig((0, 1), -2.0, "absolute", "add", "all")
    torch.testing.assert_close(found.directions[0], vectors().directions[0])


def other(folder, what):
    if what == "tokens":
        return save_artifact(ArtifactContents(tokens=some_found(made("llama"))), folder)
    if what == "contrast":
        return save_artifact(ArtifactContents(contrast=Contrast(1.0, {"t": "context"})), folder)
    if what == "adapter":
        (folder.parent / "peft").mkdir()
        (folder.parent / "peft" / "adapter_config.json").write_text("{}")
        save_file({}, folder.parent / "peft" / "adapter_model.safetensors")
        saved = save_artifact(ArtifactContents(adapter=folder.parent / "peft", provenance={"method": "lora"}), folder)
        shutil.rmtree(folder.parent / "peft")
        return saved
    return save_artifact(ArtifactContents(instruction="be kind", provenance={"method": "prompt"}), folder)


@pytest.mark.parametrize(
    ("what", "held"),
    [
        ("tokens", "found tokens"),
        ("adapter", "an adapter"),
        ("instruction", "an instruction"),
        ("contrast", "a contrast of contexts"),
    ],
)
def test_artifacts_without_vectors_are_refused(what, held, tmp_path):
    with pytest.raises(GrainsError, match=f"holds {held}; the formats hold steering vectors only"):
        export_artifact(other(tmp_path / "x", what), "gguf")
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


REFUSED = [
    ({"site": "attention_heads"}, {}, "these vectors act on attention heads"),
    ({}, {"layers": "0-2"}, "holds layers from 1 on, and layer 0 is steered; use --layers 1/2"),
    ({}, {"layers": "0"}, "holds layers from 1 on, and layer 0 is steered; use another format"),
    ({}, {"strength": 0}, "at strength 0 there is nothing to export"),
    ({}, {"layers": "7"}, "layer 7 is not in the vectors"),
    ({"directions": {1: torch.zeros(32)}, "scales": {1: 1.0}}, {"layers": 1}, "direction of layer 1 is zero"),
]


@pytest.mark.parametrize(("changes", "setting", "message"), REFUSED)
def test_what_cannot_be_exported_is_refused_and_nothing_written(changes, setting, message, tmp_path):
    folder = artifact(tmp_path / "ours", **changes)
    with pytest.raises(GrainsError, match=message):
        export_artifact(folder, "gguf", setting=setting)
    assert [each.name for each in tmp_path.iterdir()] == ["ours"]


def test_several_artifacts_are_refused(folder):
    with pytest.raises(GrainsError, match="names 2 artifacts; export them one by one"):
        export_artifact(f"{folder}+{folder}", "gguf")


def test_nothing_is_overwritten_unless_asked(folder, tmp_path):
    file = export_artifact(folder, "gguf").file
    before = file.read_bytes()
    with pytest.raises(GrainsError, match="exists; choose another --output_path or pass --overwrite"):
        export_artifact(folder, "gguf", setting={"strength": 3})
    assert file.read_bytes() == before
    export_artifact(folder, "gguf", setting={"strength": 3}, overwrite=True)
    assert file.read_bytes() != before
    with pytest.raises(GrainsError, match=r"'.*ours' exists"):
        import_file(file)
    with pytest.raises(GrainsError, match=r"exists; choose another --output_path$"):
        export_artifact(folder, "gguf", tmp_path, overwrite=True)


def test_the_commands_tell_all_of_it(folder, tmp_path, capsys):
    assert cli.main(["export", str(folder), "--format", "gguf"]) == 0
    said = capsys.readouterr().out
    assert f"wrote {folder}.gguf" in said and f"--control-vector {folder}.gguf" in said and "note: direction.N" in said
    assert cli.main(["import", f"{folder}.gguf", "-o", str(tmp_path / "back")]) == 0
    assert "Recommended: layers 1, 2, strength 0.5 (relative)" in capsys.readouterr().out
    assert cli.main(["export", str(folder), "--format", "ggufs"]) == 2
    assert "unknown format 'ggufs': did you mean 'gguf'?" in capsys.readouterr().err
    assert cli.main(["import", str(tmp_path / "nowhere.gguf")]) == 2
    assert "is not a file; give a file of easysteer, gguf" in capsys.readouterr().err


def test_files_of_no_format_are_refused(tmp_path):
    for name, content in (("a.gguf", b"GGML"), ("b.txt", json.dumps({}).encode()), ("c.gguf", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(GrainsError, match="is of no format that is known"):
            import_file(tmp_path / name)
