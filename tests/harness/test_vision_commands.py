"""The picture benchmarks from the command line, on local copies of their data and tiny models of three families."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grains_eval.artifacts.save import save_vectors
from grains_eval.models.layers import find_layers, hidden_size
from grains_eval.types import SteeringConfig, SteeringVectors
from tests import localdata

ROOT = Path(__file__).resolve().parents[2]
# what `lm_eval` runs, with the processors' missing torchvision allowed for first
LM_EVAL = (
    "from tests import tiny; tiny.allow_missing_torchvision(); "
    "from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return localdata.write(tmp_path_factory.mktemp("data"), "spa_vl", "mmhal_bench", "mmmu")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "gemma3"])
def test_picture_benchmarks_run_steered_and_not(tiny_vision, loaded_vision, data, tmp_path, family):
    model = loaded_vision(family).model
    generator = torch.Generator().manual_seed(0)
    last = len(find_layers(model)) - 1
    vectors = SteeringVectors(
        {last: torch.randn(hidden_size(model), generator=generator)},
        {last: 3.0},
        recommended=SteeringConfig((last,), 2.0),
    )
    save_vectors(vectors, tmp_path / "v")
    environment = {
        **os.environ,
        "GRAINS_EVAL_DATA": str(data),
        "PYTHONPATH": str(ROOT),
        "HF_DATASETS_CACHE": str(tmp_path),
    }
    values: dict[str, dict] = {}
    for name, steering in (("baseline", ""), ("steered", f",vectors={tmp_path / 'v'}")):
        words = [
            "run", "--model", "grains_hf", "--tasks", "spa_vl,mmhal_bench,mmmu_val", "--device", "cpu", "--limit", "1",
            "--model_args", f"pretrained={tiny_vision(family)},dtype=float32,max_images=4{steering}",
            "--gen_kwargs", "max_gen_toks=3", "--batch_size", "2", "--log_samples",
            "--output_path", str(tmp_path / name),
        ]  # fmt: skip
        run = subprocess.run(
            [sys.executable, "-c", LM_EVAL, *words],
            cwd=data,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        (file,) = (tmp_path / name).rglob("results_*.json")
        found = json.loads(file.read_text())
        assert {"spa_vl", "mmhal_bench", "mmmu_val"} <= set(found["results"])
        (samples,) = (tmp_path / name).rglob("samples_spa_vl_*.jsonl")
        values[name] = json.loads(samples.read_text().splitlines()[0])["filtered_resps"]
        assert bool(found["config"]["steering"]) == (name == "steered")
    assert values["baseline"] != values["steered"]
