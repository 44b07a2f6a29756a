"""lm-eval's own `--model steered` gives the numbers of `grains_hf` on the exported file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from lm_eval.models.hf_steered import SteeredModel

from grains_eval.demo import model_path
from grains_eval.errors import GrainsError
from grains_eval.exchange.transfer import export_artifact, import_file
from grains_eval.harness.model import GrainsHF
from tests.exchange.files import artifact
from tests.instances import instance

PAIRS = [("What is the capital of France?", " Paris"), ("Hello", " world is good"), ("The", " dog")]


def scores(model):
    return [score for score, _ in model.loglikelihood([instance("loglikelihood", {}, pair) for pair in PAIRS])]


@pytest.mark.parametrize("family", ("llama", "gpt2", "gpt_neox", "gemma2", "opt"))
def test_steered_reads_the_file_and_gives_our_numbers(family, tmp_path, tiny_text):
    model = str(tiny_text(family))
    folder = artifact(tmp_path / "ours", base_model=model)
    made = export_artifact(folder, "lm_eval_steered")
    common = {"pretrained": model, "device": "cpu", "dtype": "float32"}
    theirs = scores(SteeredModel(steer_path=str(made.file), **common))
    ours = scores(GrainsHF(vectors=str(folder), share_context=False, **common))
    plain = scores(GrainsHF(**common))
    assert theirs == pytest.approx(ours, abs=1e-4)
    assert theirs != pytest.approx(plain, abs=1e-2)


@pytest.mark.slow
def test_the_command_of_lm_eval_runs_on_it(tmp_path):
    """`lm_eval --model steered`, as a user types it, against `--model grains_hf` with operator=add."""
    model = model_path("text_split")
    folder = artifact(tmp_path / "ours", width=128, base_model=str(model))
    made = export_artifact(folder, "lm_eval_steered")
    logged = []
    for name, extra in (("steered", f"steer_path={made.file}"), ("grains_hf", f"vectors={folder},share_context=false")):
        words = ["--model", name, "--model_args", f"pretrained={model},dtype=float32,{extra}", "--device", "cpu"]
        words += ["--tasks", "demo_text_split", "--limit", "8", "--log_samples", "--output_path", str(tmp_path / name)]
        subprocess.run([sys.executable, "-m", "grains_eval.cli", "run", *words], check=True, capture_output=True)
        file = next((tmp_path / name).rglob("samples_*.jsonl"))
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        logged.append([[float(response[0]) for response in row["filtered_resps"]] for row in rows])
    assert torch.allclose(torch.tensor(logged[0]), torch.tensor(logged[1]), atol=1e-4) and len(logged[0]) == 8


def test_the_model_may_lie_elsewhere_now(tmp_path, tiny_text):
    folder = artifact(tmp_path / "ours", base_model="/nowhere/model")
    with pytest.raises(GrainsError, match=r"configuration cannot be read .* with --model_args pretrained="):
        export_artifact(folder, "lm_eval_steered")
    made = export_artifact(folder, "lm_eval_steered", model_args={"pretrained": str(tiny_text("gpt2"))})
    assert list(torch.load(made.file, weights_only=True)) == ["h.1", "h.2"]
    with pytest.raises(GrainsError, match="names no model"):
        export_artifact(artifact(tmp_path / "unnamed"), "lm_eval_steered")


def test_vectors_of_another_model_are_refused(tmp_path, tiny_text):
    folder = artifact(tmp_path / "ours", width=48, base_model=str(tiny_text("llama")))
    with pytest.raises(GrainsError, match="have width 48 but LlamaForCausalLM needs 32"):
        export_artifact(folder, "lm_eval_steered")


def entry(**changes):
    return {"steering_vector": torch.ones(4), "steering_coefficient": 2.0, "action": "add", **changes}


def test_coefficients_are_part_of_the_vectors(tmp_path):
    torch.save(
        {"layers.3": entry(), "layers.5": {"steering_vector": torch.ones(4), "action": "add"}}, tmp_path / "x.pt"
    )
    _, found = import_file(tmp_path / "x.pt")
    assert found.directions[3].tolist() == [2.0] * 4 and found.directions[5].tolist() == [1.0] * 4


WRONG = [
    ({"layers.3.mlp": entry()}, "'layers.3.mlp' is no whole decoder layer"),
    ({"layers.3": entry(action="clamp")}, "has action 'clamp', a bias or a head"),
    ({"layers.3": entry(head_index=2)}, "a bias or a head"),
    ({"layers.3": entry(bias=torch.ones(4))}, "a bias or a head"),
    ({"layers.3": entry(), "h.4": entry()}, "steers modules of h. and layers."),
    ({"layers.3": entry(steering_coefficient="much")}, "that is no number"),
    ({"layers.3": torch.ones(4)}, "is of no format that is known"),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_what_it_cannot_say_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(GrainsError, match=message):
        import_file(tmp_path / "x.pt")
    assert not (tmp_path / "x").exists()
