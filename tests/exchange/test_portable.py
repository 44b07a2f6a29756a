"""What is no plain vector of float32 is refused in one line, and nothing is written."""

from __future__ import annotations

import warnings

import gguf
import pytest
import torch

from grains_eval.artifacts.load import load_vectors
from grains_eval.cli import main
from grains_eval.errors import GrainsError
from grains_eval.exchange.portable import Record
from grains_eval.exchange.transfer import import_file
from tests.exchange.files import control_vector

ONE = torch.ones(8)
LONG = "9" * 5000


def steered(vector=ONE, name="layers.1", **changes):
    return {name: {"steering_vector": vector, "action": "add", "steering_coefficient": 1.0, **changes}}


def of_layer(vector, layer=1):
    return {"layer_activations": {layer: vector}}


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch deprecates some of what files still hold
    ODD = {
        "sparse": (ONE.to_sparse(), "is sparse"),
        "csr": (torch.ones(2, 4).to_sparse_csr(), "is sparse"),
        "complex": (ONE * (1 + 2j), "is complex"),
        "meta": (torch.empty(8, device="meta"), "without numbers"),
        "quantised": (torch.quantize_per_tensor(ONE, 0.1, 0, torch.qint8), "is quantised"),
        "nested": (torch.nested.nested_tensor([ONE, ONE]), "is nested"),
        "jagged": (torch.nested.nested_tensor([ONE, ONE], layout=torch.jagged), "is nested"),
        "beyond float32": (torch.full((8,), 1e300, dtype=torch.float64), "not finite in float32"),
        "below float32": (torch.full((8,), 1e-300, dtype=torch.float64), "is zero"),
        "too long": (torch.full((8,), 3e38), "too long for float32"),
        "too short": (torch.full((8,), 1e-44), "too short for float32"),
        "no dimension": (torch.tensor(1.0), r"of the shapes \[\]"),
    }
REFUSED = {
    **{f"{name}, steered": (steered(vector), says) for name, (vector, says) in ODD.items()},
    **{f"{name}, steering_vectors": (of_layer(vector), says) for name, (vector, says) in ODD.items()},
    "one layer twice": (steered() | steered(ONE * 5, "layers.01"), "layer 1 stands there twice"),
    "a layer of 5000 digits": (steered(name=f"layers.{LONG}"), "is no number of a layer"),
    "a layer of 31 digits": (steered(name=f"layers.1{'0' * 30}"), "is no number of a layer"),
    "an integer of 31 digits": (of_layer(ONE, 10**30), "names layer 10000"),
    "an integer of 600 digits": (of_layer(ONE, 10**600), "names layer 10000"),
    "other digits": (steered(name="layers.١"), "no whole decoder layer"),
    "a name over two lines": (steered(name="layers.1\n"), "no whole decoder layer"),
    "a number for a name": (steered(name=10**600), "no whole decoder layer"),
    "a huge coefficient": (steered(steering_coefficient=10**400), "no number, or too large"),
    "several coefficients": (steered(steering_coefficient=torch.ones(3)), "no number, or too large"),
    "a coefficient without end": (steered(steering_coefficient=float("inf")), "not finite"),
    "a tensor for an action": (steered(action=torch.ones(9, 9)), "has action"),
    "a tensor for a layer type": ({**of_layer(ONE), "layer_type": torch.ones(9, 9)}, "of layer type"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_vector_is_refused_in_one_line(name, tmp_path, capsys):
    content, says = REFUSED[name]
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(GrainsError, match=says) as raised:
        import_file(tmp_path / "x.pt")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.pt"]
    assert main(["import", str(tmp_path / "x.pt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("direction.1", "direction.01"), "layer 1 stands there twice"),
        (("direction.1" + "0" * 30,), "is no number of a layer"),
    ],
)
def test_layers_of_gguf_files_are_counted_alike(names, says, tmp_path):
    file = control_vector(tmp_path / "x.gguf", {name: ONE.numpy() for name in names})
    with pytest.raises(GrainsError, match=says):
        import_file(file)


def test_a_record_may_not_blow_a_vector_up(tmp_path):
    record = Record(factors={1: 1e-300}, scales={1: 1.0}, recommended={}, provenance={})
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "controlvector")
    writer.add_string("grains_eval.record", record.model_dump_json())
    writer.add_tensor("direction.1", ONE.numpy())
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    with pytest.raises(GrainsError, match="not finite in float32"):
        import_file(tmp_path / "x.gguf")


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool))
def test_what_float32_holds_can_be_loaded_again(dtype, tmp_path):
    torch.save(
        steered(torch.ones(8, dtype=dtype), "layers.007", steering_coefficient=torch.tensor(2.0)), tmp_path / "x.pt"
    )
    folder, found = import_file(tmp_path / "x.pt")
    assert load_vectors(folder).directions[7].tolist() == [2.0] * 8 == found.directions[7].tolist()
