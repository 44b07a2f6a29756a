"""Control vectors: what llama.cpp's loader asks of them, what other tools write, and damaged files."""

from __future__ import annotations

import random

import numpy as np
import pytest

from grains_eval.errors import GrainsError
from grains_eval.exchange.gguf import read_gguf
from grains_eval.exchange.transfer import export_artifact, import_file, recognise
from tests.exchange.files import artifact, control_vector, vectors

gguf = pytest.importorskip("gguf")


@pytest.fixture
def file(tmp_path):
    return export_artifact(artifact(tmp_path / "ours"), "gguf").file


def test_the_file_is_what_llama_cpp_loads(file):
    """Every check of `common_control_vector_load`: names, no layer 0, float32, one dimension, one length."""
    reader = gguf.GGUFReader(file)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    assert {tensor.name for tensor in reader.tensors} == {"direction.1", "direction.2"}
    assert {tensor.tensor_type for tensor in reader.tensors} == {gguf.GGMLQuantizationType.F32}
    assert {tuple(tensor.shape) for tensor in reader.tensors} == {(32,)}
    notes = reader.fields["grains_eval.notes"].contents()
    assert "direction.N acts on the output of decoder layer N counted from 0" in notes
    assert "hold strength 0.5 (relative): load them at scale 1" in notes


def test_direction_n_is_what_is_added_after_layer_n(file):
    own = vectors()
    for tensor in gguf.GGUFReader(file).tensors:
        layer = int(tensor.name.removeprefix("direction."))
        direction = own.directions[layer]
        expected = 0.5 * own.scales[layer] * direction / direction.norm()
        np.testing.assert_allclose(tensor.data, expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("kind", (np.float32, np.float16))
def test_files_of_other_tools_are_read_with_their_layers(kind, tmp_path):
    wide = {f"direction.{layer}": np.arange(1, 9, dtype=kind) * layer for layer in (1, 12)}
    file = control_vector(tmp_path / "happy.gguf", wide)
    folder, found = import_file(file)
    assert folder == tmp_path / "happy" and found.layers == (1, 12)
    np.testing.assert_array_equal(found.directions[12].numpy(), np.arange(1, 9, dtype=np.float32) * 12)
    assert found.provenance["method"] == "imported" and "doc_hashes" not in found.provenance


def test_files_of_easysteer_are_known_by_their_method(tmp_path):
    file = control_vector(tmp_path / "e.gguf", {"direction.0": np.ones(4, np.float32)}, method="diffmean")
    assert recognise(file) == "easysteer"
    assert import_file(file)[1].provenance["method"] == "diffmean"


def test_vectors_of_another_component_are_refused(tmp_path):
    native = '{"version": 1, "component": "attention_heads", "metadata": {"mapping": []}}'
    file = control_vector(tmp_path / "e.gguf", {"direction.0": np.ones(4, np.float32)}, easysteer=native)
    with pytest.raises(GrainsError, match="holds vectors of attention_heads"):
        import_file(file)


ONE = np.ones(4, np.float32)
WRONG = [
    ({"direction.1": ONE}, {"architecture": "llama"}, "of architecture 'llama', no control vector"),
    ({"direction.x": ONE}, {}, "holds a tensor 'direction.x'"),
    ({"direction.1.weight": ONE}, {}, "holds a tensor 'direction.1.weight'"),
    ({"direction.1": np.ones(4, np.int32)}, {}, "is of type int32"),
    ({"direction.1": ONE, "direction.2": np.ones(5, np.float32)}, {}, r"of the shapes \[4\], \[5\]"),
    ({"direction.1": np.ones((2, 4), np.float32)}, {}, r"of the shapes \[2, 4\]"),
    ({"direction.1": np.array([1, np.nan], np.float32)}, {}, "layer 1 is zero or holds numbers that are not finite"),
    ({"direction.1": np.zeros(4, np.float32)}, {}, "layer 1 is zero"),
    ({"other": ONE}, {}, "of the shapes none"),
]


@pytest.mark.parametrize(("directions", "fields", "message"), WRONG)
def test_what_is_no_control_vector_is_refused_in_one_line(directions, fields, message, tmp_path):
    file = control_vector(tmp_path / "x.gguf", directions, **fields)
    with pytest.raises(GrainsError, match=message) as raised:
        import_file(file)
    assert "\n" not in str(raised.value) and not (tmp_path / "x").exists()


RECORDS = [
    ("{", "record is damaged"),
    ('{"factors": {"1": 0}, "scales": {}, "recommended": {}, "provenance": {}}', "names other layers"),
    ('{"factors": {"2": 1}, "scales": {}, "recommended": {}, "provenance": {}}', "names other layers"),
    ('{"factors": {"1": 1}, "scales": {}, "recommended": {"unit": "mile"}, "provenance": {}}', "holds no setting"),
    ('{"factors": {"1": 1}, "scales": {}, "recommended": {}, "provenance": {}, "version": 9}', "upgrade grains-eval"),
    ('{"factors": {"1": 1}, "scales": {}, "recommended": {}, "provenance": {}, "code": 1}', "record is damaged"),
]


@pytest.mark.parametrize(("record", "message"), RECORDS)
def test_a_record_that_does_not_fit_is_refused(record, message, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "controlvector")
    writer.add_string("grains_eval.record", record)
    writer.add_tensor("direction.1", ONE)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    with pytest.raises(GrainsError, match=message):
        import_file(tmp_path / "x.gguf")


def test_damaged_files_end_in_one_line(file, tmp_path):
    whole = file.read_bytes()
    rng = random.Random(0)
    refused = 0
    for number in range(300):
        content = bytearray(whole[: rng.randrange(4, len(whole))] if number % 2 else whole)
        for _ in range(number % 5):
            place = rng.randrange(4, min(len(content), 400)) if len(content) > 4 else 0
            content[place] ^= 1 << rng.randrange(8)
        damaged = tmp_path / "damaged.gguf"
        damaged.write_bytes(bytes(content))
        try:
            read_gguf(damaged)
        except GrainsError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100
