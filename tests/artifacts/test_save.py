"""The artifact folder: what is written comes back, and nothing else is read."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grains_eval.artifacts import save as saving
from grains_eval.artifacts.layout import ArtifactContents, fingerprint
from grains_eval.artifacts.load import load_vectors
from grains_eval.artifacts.save import save_artifact, save_vectors
from grains_eval.errors import GrainsError
from tests.artifacts.samples import vectors


def test_what_is_saved_comes_back(tmp_path):
    folder = save_artifact(ArtifactContents(vectors(), recipe="name: x\n"), tmp_path / "v")
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
        saving.save_tensors({"a": torch.zeros(2)}, tmp_path / "gone" / "a", ("format", "pt"))
    assert caught.value.filename == str(tmp_path / "gone" / "a")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", lambda *a, **k: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_vectors(vectors(), tmp_path / "v")
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_overwrite_replaces_artifacts_and_nothing_else(tmp_path):
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years")
    with pytest.raises(GrainsError, match="is not a vectors folder and will not be replaced"):
        save_vectors(vectors(), foreign, overwrite=True)
    assert (foreign / "thesis.txt").read_text() == "years"
    (tmp_path / "empty").mkdir()
    save_vectors(vectors(), tmp_path / "empty", overwrite=True)


def test_an_output_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    from grains_eval.artifacts.save import check_replaceable

    (tmp_path / "file").write_text("")
    with pytest.raises(GrainsError, match="nothing can be written to"):
        check_replaceable(tmp_path / "file" / "vectors")
