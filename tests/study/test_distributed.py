"""Two processes do what one does: the same artifact, the same evaluation, one file of each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pyarrow.parquet as parquet
import pytest
import torch

from grains_eval.artifacts.layout import fingerprint
from grains_eval.artifacts.load import load_vectors
from grains_eval.demo import model_path
from grains_eval.study.distributed import Processes

RECIPE = "tasks/demo/text_split/recipe.yaml"
CHANGES = ["data.examples=9", "attribution.steps=8", "attribution.max_steps=8"]


def launch(processes: int, *words: str) -> str:
    """Run a module in one process, or in several under torchrun; its standard error."""
    command = [sys.executable, "-m"]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port), "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([*command, *words], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr + done.stdout


def build(processes: int, folder) -> str:
    changes = [word for change in CHANGES for word in ("--set", change)]
    model = f"pretrained={model_path('text_split')}"
    return launch(
        processes, "grains_eval.cli", "build", "--config", RECIPE, *changes,
        "--model_args", model, "--device", "cpu", "--output_path", str(folder),
    )  # fmt: skip


def evaluate(processes: int, vectors, folder) -> dict:
    model = f"pretrained={model_path('text_split')},vectors={vectors}"
    launch(
        processes, "lm_eval", "--model", "grains_hf", "--model_args", model, "--device", "cpu", "--limit", "25",
        "--tasks", "demo_text_split,demo_text_split_skills", "--output_path", str(folder), "--log_samples",
    )  # fmt: skip
    files = list(folder.rglob("results_*.json"))
    assert len(files) == 1, "one results file, whatever the number of processes"
    return json.loads(files[0].read_text())


def test_shares_are_disjoint_and_whole():
    items = list(range(11))
    shares = [Processes(rank, 3).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert [len(share) for share in shares] == [4, 4, 3]


def test_processes_tell_each_other_which_documents_they_evaluated(monkeypatch):
    from grains_eval.harness.model import SteeringMixin

    class Base:
        world_size, waited = 2, 0

        def barrier(self):
            self.waited += 1

    class Two(SteeringMixin, Base):
        def __init__(self):
            self._documents = {("t", 0): "a", ("t", 2): "c"}

    def gather(everywhere, own):
        everywhere[:] = [dict(own), {("t", 1): "b"}]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    lm = Two()
    lm.barrier()
    assert lm.waited == 1
    assert lm._documents == {("t", 0): "a", ("t", 1): "b", ("t", 2): "c"}


@pytest.mark.slow
def test_two_processes_build_and_evaluate_as_one_does(tmp_path):
    build(1, tmp_path / "one")
    said = build(2, tmp_path / "two")
    assert "process 1 of 2" in said
    one, two = (load_vectors(tmp_path / name) for name in ("one", "two"))
    assert fingerprint(one) == fingerprint(two)
    for layer, direction in one.directions.items():
        assert torch.equal(direction, two.directions[layer])
    tables = [parquet.read_table(tmp_path / name / "attributions.parquet") for name in ("one", "two")]
    assert tables[0].equals(tables[1])
    assert not (tmp_path / "two.partial").exists()

    alone, split = (evaluate(count, tmp_path / "one", tmp_path / f"run{count}") for count in (1, 2))
    for task, found in alone["results"].items():
        for name, value in found.items():
            # sums run in another order, so a standard error may differ in its last bit
            expected = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            assert split["results"][task][name] == expected
    for key in ("steering_fingerprint", "evaluated_docs_used_to_build", "evaluated_docs_used_to_tune"):
        assert alone["config"][key] == split["config"][key]
