"""One engine, eager, under many settings: answers, salts, counts, the canary, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from grains_eval.artifacts.layout import Artifact
from grains_eval.artifacts.save import save_vectors
from grains_eval.errors import GrainsError
from grains_eval.harness.arguments import AppliedArtifact
from grains_eval.steering import resolve
from grains_eval.types import SteeringConfig, SteeringVectors
from tests.instances import instance
from tests.vllm import checks
from tests.vllm.families import WIDTH, build

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def theirs(folder):
    return checks.reference(folder)


@pytest.fixture(scope="module")
def ours(folder, theirs):
    with pytest.MonkeyPatch.context() as patch:
        checks.in_one_process(patch.setenv)
        with checks.engine(folder, max_settings=17, max_vectors=2, enforce_eager=True, **checks.ALONE) as made:
            yield made


def sweep(count=17):
    """So many strengths of one vector, and the plain model."""
    return [(), *((checks.applied(1, (1, 3), strength=0.2 + 0.1 * number),) for number in range(count))]


def long_prompts():
    """Longer than a block of the prefix cache, which has 128 tokens on a CPU; they begin alike."""
    start = " ".join(checks.WORDS[number % len(checks.WORDS)] for number in range(150))
    return [
        instance("generate_until", {}, (f"{start} {word}", checks.GENERATION), number=number)
        for number, word in enumerate(("cat", "dog", "rome"))
    ]


def answers(lm, settings, requests):
    from grains_eval.harness.prefix_sharing.configurations import moving
    from grains_eval.harness.prefix_sharing.loglikelihood import Memo

    found = []
    try:
        lm.memo = Memo([moving([item.resolved for item in each]) for each in settings])
        for number in range(len(settings)):
            lm.memo.active = number
            found.append([each.rstrip("\ufffd") for each in lm.generate_until(requests, disable_tqdm=True)])
    finally:
        lm.memo = None
    return found


def test_eighteen_settings_share_batches_and_a_prefix_cache(ours, theirs, monkeypatch):
    wanted = answers(theirs, sweep(), long_prompts())
    for _ in range(2):  # the second time prompts come from the cache
        assert answers(ours, sweep(), long_prompts()) == wanted
    tokens = ours.engine.steered_tokens()
    assert len(tokens) == 17 and all(set(found) == {1, 3} for found in tokens.values())
    assert all(min(found.values()) > 0 for found in tokens.values())
    # the trap: one salt for all settings gives some the keys and values of others
    ours.model.reset_prefix_cache()
    monkeypatch.setattr("grains_eval.vllm.engine.salt", lambda *_: "one for all")
    assert answers(ours, sweep(), long_prompts()) != wanted
    ours.model.reset_prefix_cache()


def test_where_the_prompt_ends_is_in_the_salt(ours, theirs):
    setting = (checks.applied(1, (1, 3), strength=0.9, positions="prompt"),)
    (first,) = long_prompts()[:1]
    context = first.args[0]
    asked = [
        instance("loglikelihood", {}, (context[:cut].rstrip(), context[cut:]), index, number=index)
        for index, cut in enumerate((context.rindex(" cat"), context.rindex(" hello")))
    ]
    for _ in range(2):
        for found, wanted in zip(_scores(ours, setting, asked), _scores(theirs, setting, asked), strict=True):
            assert found[0] == pytest.approx(wanted[0], abs=2e-4)


def _scores(lm, setting, asked):
    lm.steer(setting)
    try:
        return lm.loglikelihood(asked, disable_tqdm=True)
    finally:
        lm.steer(())


def test_more_settings_than_rows_take_turns(ours, theirs):
    settings = [*sweep(), (checks.applied(5, (0,), strength=1.1),), (checks.applied(6, (2,), strength=-0.7),)]
    assert answers(ours, settings, long_prompts()[:1]) == answers(theirs, settings, long_prompts()[:1])


def test_counts_that_do_not_add_up_end_the_run(ours):
    ours.steer((checks.applied(1, (1,), strength=0.5),))
    layer = next(iter(_tables(ours).layers.values()))
    layer.grains_moved.add_(3)
    with pytest.raises(GrainsError, match=r"layer 0 on rank 0 moved 3 tokens where 0 were to be moved"):
        ours.get_model_info()
    layer.grains_moved.zero_()
    ours.steer(())


def _tables(lm):
    runner = lm.model.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    return runner.get_model().grains_tables


def test_requests_that_moved_nothing_end_the_run(ours):
    setting = (checks.applied(1, (1,), strength=0.6),)
    ours.steer(setting)
    ours.loglikelihood(checks.requests("loglikelihood", 2), disable_tqdm=True)
    assert ours.get_model_info()["steered_tokens"]["1"] > 0
    for layer in _tables(ours).layers.values():
        layer.grains_moved.zero_()
    _tables(ours).sent.zero_()
    with pytest.raises(GrainsError, match="layer 1 moved no token of 4 requests"):
        ours.get_model_info()
    ours.steer(())


def test_whole_texts_and_their_position_rules(ours, theirs):
    setting = (checks.applied(1, (1, 3), strength=0.8),)
    asked = checks.requests("loglikelihood_rolling", 4)
    for lm in (ours, theirs):
        lm.steer(setting)
    found, wanted = (lm.loglikelihood_rolling(asked, disable_tqdm=True) for lm in (ours, theirs))
    assert found == pytest.approx(wanted, abs=1e-3)
    ours.steer((checks.applied(1, (1,), positions="last"),))
    with pytest.raises(GrainsError, match="positions cannot be told apart in whole texts"):
        ours.loglikelihood_rolling(asked, disable_tqdm=True)
    for lm in (ours, theirs):
        lm.steer(())


def broken_arithmetic(monkeypatch):
    from grains_eval.vllm import layers

    steer = layers.steer

    def halfway(layer, hidden, residual):
        layer.grains_strengths.mul_(0.5)
        found = steer(layer, hidden, residual)
        layer.grains_strengths.mul_(2)
        return found

    monkeypatch.setattr(layers, "steer", halfway)


def unplaced_tokens(monkeypatch):
    from grains_eval.vllm.runner import Steering

    write = Steering.write

    def nothing(self, *arguments):
        write(self, *arguments)
        if not self.tables.reference:
            self.tables.slots.zero_()

    monkeypatch.setattr(Steering, "write", nothing)


@pytest.mark.parametrize("fault", [broken_arithmetic, unplaced_tokens])
def test_the_canary_sees_what_does_not_steer(ours, monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises(GrainsError, match="this engine does not steer as it should"):
        ours.steer((checks.applied(8, (1, 2), strength=1.0),))
    monkeypatch.undo()
    ours.steer((checks.applied(9, (1, 2), strength=1.0),))
    ours.steer(())


def other(directions, site="block_output"):
    vectors = SteeringVectors(directions, dict.fromkeys(directions, 1.0), site=site, provenance={"method": "x"})
    artifact = Artifact("x", vectors, None, None, vectors.provenance)
    return AppliedArtifact("x", artifact, SteeringConfig(), resolve(vectors, SteeringConfig()))


def test_refusals(ours, tmp_path):
    import torch

    with pytest.raises(GrainsError, match="vectors have width 5 at layer 1 but LlamaForCausalLM needs 64"):
        ours.steer((other({1: torch.ones(5)}),))
    with pytest.raises(GrainsError, match="layer 9 is out of range; LlamaForCausalLM has layers 0 to 3"):
        ours.steer((other({9: torch.ones(WIDTH)}),))
    with pytest.raises(GrainsError, match="site attention_heads cannot be steered in vLLM"):
        ours.steer((other({1: torch.ones(WIDTH)}, "attention_heads"),))
    with pytest.raises(GrainsError, match="3 vectors one after another but this engine was made for 2"):
        ours.steer(tuple(checks.applied(seed, (1,), strength=1.0) for seed in (1, 2, 3)))
    adapter = Artifact("lora", None, tmp_path / "adapter", None, {})
    with pytest.raises(GrainsError, match="is a LoRA artifact; give lora_local_path="):
        ours.steer((AppliedArtifact("lora", adapter, None, None),))
    from grains_eval.vllm.model import GrainsVLLM

    with pytest.raises(
        GrainsError, match="unknown model argument 'tensor_paralel_size': did you mean 'tensor_parallel"
    ):
        GrainsVLLM(pretrained="x", tensor_paralel_size=2)
    with pytest.raises(GrainsError, match="max_settings=two is not a whole number"):
        GrainsVLLM(pretrained="x", max_settings="two")
    with pytest.raises(GrainsError, match="data_parallel_size starts engines that cannot be reached"):
        GrainsVLLM(pretrained="x", max_settings=1, data_parallel_size=2)


def test_layers_that_return_their_stream_in_another_way_are_refused_by_name(tmp_path, monkeypatch):
    checks.in_one_process(monkeypatch.setenv)
    folder = build("cohere", tmp_path)
    with (
        pytest.raises(GrainsError, match="CohereForCausalLM cannot be steered in vLLM: the two tensors"),
        checks.engine(folder, max_settings=1, enforce_eager=True, **checks.ALONE) as lm,
    ):
        lm.steer((checks.applied(1, (1,), strength=1.0),))


PLAIN = """
import sys, json
from tests.vllm import checks
if __name__ == "__main__":
    kind = sys.argv[2]
    if kind == "vllm":
        from grains_eval.vllm.library import harness_class
        lm = harness_class()(pretrained=sys.argv[1], **checks.ENGINE, **checks.ALONE)
    else:
        from grains_eval.vllm.model import GrainsVLLM
        lm = GrainsVLLM(pretrained=sys.argv[1], **checks.ENGINE, **checks.ALONE)
    print("found", json.dumps([lm.loglikelihood(checks.requests("loglikelihood")),
        lm.loglikelihood_rolling(checks.requests("loglikelihood_rolling")),
        lm.generate_until(checks.requests("generate_until"))]))
"""


def test_without_vectors_every_number_is_that_of_the_plain_engine(folder, tmp_path):
    program = tmp_path / "plain.py"
    program.write_text(PLAIN)
    found = []
    for kind, plugins in (("vllm", {"VLLM_PLUGINS": "none"}), ("grains_vllm", {})):
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_ENABLE_V1_MULTIPROCESSING": "0", **plugins}
        done = subprocess.run(
            [sys.executable, str(program), str(folder), kind],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(next(line for line in done.stdout.splitlines() if line.startswith("found")))
    assert found[0] == found[1]


def test_lm_eval_runs_it_by_name(folder, tmp_path):
    item = checks.applied(1, (1, 3), strength=0.8)
    vectors = save_vectors(replace(item.artifact.vectors, recommended=item.config), tmp_path / "v")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"q": word, "choices": [" yes", " no"], "a": 0}) for word in checks.WORDS))
    task = {
        "task": "toy",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "choices",
        "doc_to_target": "a",
    }
    (tmp_path / "toy.yaml").write_text(json.dumps(task))
    arguments = (
        f"pretrained={folder},dtype=float32,max_model_len=256,enforce_eager=True,distributed_executor_backend=uni"
    )
    command = [str(Path(sys.executable).parent / "lm_eval"), "run", "--model", "grains_vllm", "--tasks", "toy"]
    command += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--batch_size", "auto"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(
        [*command, "--model_args", f"{arguments},vectors={vectors}"], env=variables, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = (tmp_path / "out").rglob("results_*.json")
    config = json.loads(file.read_text())["config"]
    assert config["steering"][0]["strength"] == 0.8
    assert set(config["steered_tokens"]) == {"1", "3"} and min(config["steered_tokens"].values()) > 50
    assert config["steered_ranks"] == [{"rank": 0, "runner": "V1", "place": "model.layers", "layers": [0, 1, 2, 3]}]
    done = subprocess.run(
        [*command, "--model_args", f"{arguments},vectors={tmp_path / 'none'}"], env=variables, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("grains_vllm: vectors folder")
