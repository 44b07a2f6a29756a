"""The fields of `steering_vectors.SteeringVector`, as plain tensors."""

from __future__ import annotations

import pytest
import torch

from grains_eval.errors import GrainsError
from grains_eval.exchange.transfer import export_artifact, import_file
from tests.exchange.files import artifact


def test_the_file_holds_the_arguments_of_steering_vector(tmp_path):
    file = export_artifact(artifact(tmp_path / "ours"), "steering_vectors").file
    fields = torch.load(file, weights_only=True)
    assert set(fields) == {"layer_activations", "layer_type"} and fields["layer_type"] == "decoder_block"
    assert set(fields["layer_activations"]) == {1, 2}
    assert all(
        vector.shape == (32,) and vector.dtype == torch.float32 for vector in fields["layer_activations"].values()
    )


def test_layer_type_may_be_left_out(tmp_path):
    torch.save({"layer_activations": {7: torch.ones(4, dtype=torch.float16)}}, tmp_path / "x.pt")
    assert import_file(tmp_path / "x.pt")[1].layers == (7,)


WRONG = [
    ({"layer_activations": {7: torch.ones(4)}, "layer_type": "mlp"}, "of layer type 'mlp'"),
    ({"layer_activations": {"7": torch.ones(4)}}, "has no 'layer_activations' of the form"),
    ({"layer_activations": {-1: torch.ones(4)}}, "has no 'layer_activations' of the form"),
    ({"layer_activations": {7: [1.0]}}, "has no 'layer_activations' of the form"),
    ({"layer_activations": {}}, "of the shapes none"),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_other_contents_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(GrainsError, match=message):
        import_file(tmp_path / "x.pt")
