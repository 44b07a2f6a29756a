"""Tolerances rest on what `python -m benchmarks.rounding` measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from lm_eval.models.huggingface import HFLM

from grains_eval.errors import GrainsError
from grains_eval.harness.prefix_sharing.loglikelihood import shared_scores
from grains_eval.models import LoadedModel, encode_all
from grains_eval.models.rounding import TOLERANCES, Tolerance, rounding, tolerance
from grains_eval.types import PreferenceExample
from tests import tiny
from tests.harness.prefix_sharing.test_loglikelihood import LIMIT, requests

ROWS = json.loads((Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "rounding.json").read_text())[
    "rows"
]
NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def measured(dtype: torch.dtype, of: str) -> list[dict[str, Any]]:
    """Rows in which models computed with these numbers, cast to or loaded in."""
    return [row for row in ROWS if row["numbers"].split()[-1] == NAMES[dtype] and row["of"].startswith(of)]


@pytest.mark.parametrize("of", ["log-probability", "layer output"])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_each_tolerance_is_above_what_was_measured_and_not_far(dtype: torch.dtype, of: str) -> None:
    rows = measured(dtype, of)
    allowed = TOLERANCES[dtype].nats if of == "log-probability" else TOLERANCES[dtype].state
    largest = max(row["largest"] for row in rows)
    assert largest < allowed < (25 if dtype == torch.float32 else 10) * largest


def of(**changes: Any) -> Any:
    return SimpleNamespace(**{"dtype": torch.float32, "device": torch.device("cpu"), **changes})


def test_the_numbers_that_a_model_computes_with_decide() -> None:
    assert tolerance(of()) == tolerance(of(dtype=torch.float64)) == TOLERANCES[torch.float32]
    assert tolerance(of(dtype=torch.float16)) == TOLERANCES[torch.float16]
    assert tolerance(of(dtype=torch.int8)) == tolerance(of(is_quantized=True)) == TOLERANCES[torch.bfloat16]
    assert tolerance(of(), torch.bfloat16) == TOLERANCES[torch.bfloat16]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tolerance(of()) == TOLERANCES[torch.bfloat16]
    on_gpu = of(device=torch.device("cuda"))
    assert tolerance(on_gpu) == TOLERANCES[torch.float32]
    torch.set_float32_matmul_precision("high")
    try:
        assert tolerance(on_gpu) == TOLERANCES[torch.float16]
        assert tolerance(of()) == TOLERANCES[torch.float32]
    finally:
        torch.set_float32_matmul_precision("highest")


def test_errors_of_tokens_add_up_by_the_root_of_their_number() -> None:
    assert rounding(of(), 9) == pytest.approx(3 * TOLERANCES[torch.float32].nats)
    assert rounding(of(), 0) == rounding(of(), 1)
    assert rounding(of(), 4, torch.float16) == pytest.approx(math.sqrt(4) * TOLERANCES[torch.float16].nats)


def test_prefix_sharing_and_builds_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no room for rounding neither takes a prompt that was run once for one that was run with each answer."""

    def found() -> tuple[bool, bool]:
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**tiny.LLAMA)).eval()
        tiny.fill(model)
        lm = HFLM(pretrained=model, tokenizer=tiny.tokenizer(bos=True), device="cpu", max_length=256)
        examples = [
            PreferenceExample(f"{n}", f"{n}", " ".join(["Question", *["what"] * n]), " paris no yes" * 4, " rome yes")
            for n in (6, 12, 30)
        ]
        try:
            built = all(example.share_prefix for example in encode_all(LoadedModel.of(lm), examples))
        except GrainsError as error:
            assert "is not what the model scores" in str(error)
            built = False
        return built, shared_scores(model, requests(), [()], max_length=LIMIT) is not None

    assert found() == (True, True)
    monkeypatch.setitem(TOLERANCES, torch.float32, Tolerance(nats=1e-12, state=1e-12))
    assert found() == (False, False)


def test_rounding_is_small_beside_what_matters(loaded_text: Any) -> None:
    model = loaded_text("llama").model
    assert rounding(model, 1) < rounding(model, 4) == 2 * rounding(model, 1) < 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rounding(model, 1) > 0.1
