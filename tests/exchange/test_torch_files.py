"""Files of `torch.save`: plain tensors or nothing."""

from __future__ import annotations

import os

import pytest
import torch

from grains_eval.errors import GrainsError
from grains_eval.exchange.transfer import export_artifact, import_file
from tests.exchange.files import artifact


class _Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("format", (None, "steering_vectors", "lm_eval_steered"))
def test_objects_are_never_unpickled(format, tmp_path):
    torch.save({"layer_activations": {1: torch.ones(4)}, "trap": _Trap(tmp_path / "sprung")}, tmp_path / "x.pt")
    with pytest.raises(GrainsError, match=r"holds Python objects, which are never unpickled") as raised:
        import_file(tmp_path / "x.pt", format=format)
    assert "\n" not in str(raised.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.pt"]


def test_damaged_files_are_refused(tmp_path):
    whole = export_artifact(artifact(tmp_path / "ours"), "steering_vectors").file.read_bytes()
    for size in range(0, len(whole) - 1, 97):
        (tmp_path / "x.pt").write_bytes(whole[:size])
        with pytest.raises(GrainsError, match=r"holds Python objects|is not a readable file of torch.save") as raised:
            import_file(tmp_path / "x.pt")
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "x").exists()
