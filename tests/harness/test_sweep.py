"""Many settings in one pass against one evaluation after another, through lm-eval itself."""

from __future__ import annotations

import json
import random

import pytest
import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from grains_eval.artifacts.layout import Artifact
from grains_eval.errors import GrainsError
from grains_eval.harness.arguments import AppliedArtifact
from grains_eval.harness.model import GrainsHF
from grains_eval.harness.prefix_sharing import loglikelihood as shared_context
from grains_eval.harness.sweep import evaluate_settings
from grains_eval.steering import resolve
from grains_eval.types import SteeringConfig, SteeringVectors

WORDS = """hello world what is the capital of france paris rome a red square yes no cat dog""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def manager(tmp_path_factory) -> TaskManager:
    """A multiple-choice task with few-shot examples, one that generates, and one of whole texts."""
    folder = tmp_path_factory.mktemp("tasks")
    draw = random.Random(0)

    def phrase(count):
        return " ".join(draw.choice(WORDS) for _ in range(count))

    rows = [
        {"q": phrase(8), "choices": [" " + phrase(draw.randrange(1, 4)) for _ in range(4)], "a": draw.randrange(4)}
        for _ in range(12)
    ]
    data = folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data), "train": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "metadata": {"version": 1},
    }
    means = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm", "acc_mutual_info")
    ]
    choice = {
        **common,
        "task": "toy_choice",
        "output_type": "multiple_choice",
        "fewshot_split": "train",
        "num_fewshot": 2,
        "doc_to_choice": "choices",
        "target_delimiter": "",  # lm_eval 0.5.0.dev1 cannot tell acc_mutual_info with another
        "doc_to_target": "a",
        "metric_list": means,
    }
    rolling = {
        **common,
        "task": "toy_rolling",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}}",
        "metric_list": [{"metric": "word_perplexity"}],
    }
    generate = {
        **common,
        "task": "toy_generate",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    for task in (choice, rolling, generate):
        (folder / f"{task['task']}.yaml").write_text(json.dumps(task))  # JSON is YAML
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def lm(tiny_text) -> GrainsHF:
    return GrainsHF(pretrained=str(tiny_text("llama")), device="cpu", batch_size=2, dtype="float32")


def setting(lm, strength, layers=(1,), **changes):
    """A random vector in memory, applied with the given strength."""
    width = lm.model.config.hidden_size
    directions = {layer: torch.randn(width, generator=torch.Generator().manual_seed(layer)) for layer in range(3)}
    vectors = SteeringVectors(directions, dict.fromkeys(directions, 3.0), provenance={"method": "random"})
    config = SteeringConfig(layers=layers, strength=strength, **changes)
    artifact = Artifact("random", vectors, None, None, vectors.provenance)
    return (AppliedArtifact("in memory", artifact, config, resolve(vectors, config)),)


def samples(results, task):
    return sorted(results["samples"][task], key=lambda each: each["doc_id"])


@pytest.mark.parametrize(
    ("tasks", "positions"),
    [(["toy_choice", "toy_rolling", "toy_generate"], "all"), (["toy_choice", "toy_generate"], "last")],
)
def test_a_sweep_gives_what_one_evaluation_after_another_gives(lm, manager, monkeypatch, tasks, positions):
    settings = [(), setting(lm, 1.0), setting(lm, -2.0, (2,)), setting(lm, 1.5, (0, 1), positions=positions)]
    passes = []
    monkeypatch.setattr(
        shared_context,
        "score",
        lambda *a, _score=shared_context.score, **k: passes.append(len(a[2])) or _score(*a, **k),
    )
    together = evaluate_settings(lm, settings, tasks, task_manager=manager, bootstrap_iters=0)
    assert passes == [len(settings)]  # every setting in one pass, the other evaluations remember it
    assert lm.applied == () and lm.memo is None
    moved = {json.dumps([each["resps"] for each in samples(found, "toy_choice")]) for found in together}
    assert len(moved) == len(settings)
    for wanted, found in zip(settings, together, strict=True):
        lm.applied = tuple(wanted)
        try:
            alone = simple_evaluate(model=lm, tasks=tasks, task_manager=manager, bootstrap_iters=0)
        finally:
            lm.applied = ()
        assert alone is not None
        assert_close(found["results"], alone["results"])
        for task in tasks:
            for ours, theirs in zip(samples(found, task), samples(alone, task), strict=True):
                assert ours["arguments"] == theirs["arguments"]  # the same few-shot examples
                assert ours["doc_hash"] == theirs["doc_hash"]
                assert_close(ours["filtered_resps"], theirs["filtered_resps"])
        assert found["config"]["steering"] == alone["config"]["steering"]
        assert set(alone) == set(found) - {"system_instruction", "chat_template", "fewshot_as_multiturn"}


def assert_close(left, right):
    if isinstance(left, dict):
        assert set(left) == set(right)
        for name in left:
            assert_close(left[name], right[name])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_close(one, other)
    elif isinstance(left, float):
        assert left == pytest.approx(right, abs=1e-5, rel=1e-6)
    else:
        assert left == right


def test_an_ordinary_run_agrees_with_hf_within_rounding(lm, manager, tiny_text):
    plain = HFLM(pretrained=str(tiny_text("llama")), device="cpu", batch_size=2, dtype="float32")
    tasks = ["toy_choice", "toy_rolling"]
    theirs, ours = (
        simple_evaluate(model=each, tasks=tasks, task_manager=manager, bootstrap_iters=0) for each in (plain, lm)
    )
    for task in tasks:
        for left, right in zip(samples(ours, task), samples(theirs, task), strict=True):
            assert_close(left["filtered_resps"], right["filtered_resps"])
    assert ours["results"]["toy_choice"] == theirs["results"]["toy_choice"]


def test_strength_zero_is_the_baseline_bit_for_bit(lm, manager):
    settings = [(), setting(lm, 0.0), setting(lm, 1.0)]
    base, zero, moved = evaluate_settings(lm, settings, ["toy_choice"], task_manager=manager, bootstrap_iters=0)
    responses = [[each["resps"] for each in samples(found, "toy_choice")] for found in (base, zero, moved)]
    assert responses[0] == responses[1] != responses[2]


def test_without_sharing_every_setting_runs_under_hooks(tiny_text, manager):
    plain = GrainsHF(pretrained=str(tiny_text("llama")), device="cpu", batch_size=2, share_context=False)
    settings = [(), setting(plain, 1.0)]
    base, moved = evaluate_settings(plain, settings, ["toy_choice"], task_manager=manager, bootstrap_iters=0)
    reference = HFLM(pretrained=str(tiny_text("llama")), device="cpu", batch_size=2)
    theirs = simple_evaluate(model=reference, tasks=["toy_choice"], task_manager=manager, bootstrap_iters=0)
    found = [[each["resps"] for each in samples(x, "toy_choice")] for x in (base, theirs, moved)]
    assert found[0] == found[1] != found[2]


def test_refusals(lm, manager):
    with pytest.raises(GrainsError, match="use_cache"):
        evaluate_settings(lm, [()], ["toy_choice"], task_manager=manager, use_cache="cache")
    wide = SteeringVectors({0: torch.ones(5)}, {0: 1.0})
    artifact = Artifact("random", wide, None, None, {})
    with pytest.raises(GrainsError, match="width 5"):
        evaluate_settings(lm, [(AppliedArtifact("x", artifact, SteeringConfig(), None),)], ["toy_choice"])
