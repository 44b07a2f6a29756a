"""`positions=` under `grains_hf`: answers are those of whole passes with a mask by hand, or the run is refused."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from grains_eval.artifacts.layout import ArtifactContents
from grains_eval.artifacts.save import save_artifact, save_vectors
from grains_eval.errors import GrainsError
from grains_eval.harness.model import GrainsHF
from grains_eval.steering import steered
from grains_eval.types import SteeringConfig
from tests.decoding import NEW, RULES, by_hand, vectors_for
from tests.instances import instance

PROMPTS = ["what is the capital of france", "hello"]
SETTINGS = {"until": ["zzz"], "max_gen_toks": NEW, "do_sample": False}


def open_lm(folder, **arguments):
    return GrainsHF.create_from_arg_obj(
        {"pretrained": str(folder), "dtype": "float32", "device": "cpu", "batch_size": 2, **arguments}
    )


def generated(lm):
    requests = [instance("generate_until", {}, (text, SETTINGS), number=i) for i, text in enumerate(PROMPTS)]
    return lm.generate_until(requests, disable_tqdm=True)


def expected(lm, rule):
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([lm.tok_encode(prompt)])
        tokens = by_hand(lm.model, rule, ids, ids.shape[1])[0, ids.shape[1] :].tolist()
        texts.append(lm.tok_decode(tokens[: tokens.index(lm.eot_token_id)] if lm.eot_token_id in tokens else tokens))
    return texts


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", ["llama", "mamba", "rwkv", "minimax", "jamba"])
def test_generation_moves_the_tokens_of_its_rule(tiny_text, loaded_text, tmp_path, family, rule):
    source = save_vectors(vectors_for(loaded_text(family).model), tmp_path / "v")
    lm = open_lm(tiny_text(family), vectors=str(source), strength=1.0, positions=rule, batch_size=1)
    assert generated(lm) == expected(lm, rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch_size", [2, "auto"])
def test_an_adapter_and_vectors_together(tiny_text, loaded_text, tmp_path, rule, batch_size):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_text("llama"), dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    origin = {"method": "lora", "base_model": "tiny"}
    lora = save_artifact(ArtifactContents(adapter=tmp_path / "adapter", provenance=origin), tmp_path / "lora")
    source = save_vectors(vectors_for(loaded_text("llama").model), tmp_path / "v")
    lm = open_lm(
        tiny_text("llama"), vectors=f"{lora}+{source}", strength="1.0", positions=rule, batch_size=batch_size,
        max_length=64,
    )  # fmt: skip
    assert generated(lm) == expected(lm, rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_an_encoder_decoder_is_scored_by_its_decoders_tokens(tiny_text, loaded_text, tmp_path, family, rule):
    vectors = vectors_for(loaded_text(family).model)
    source = save_vectors(vectors, tmp_path / "v")
    lm = open_lm(tiny_text(family), backend="seq2seq", vectors=str(source), strength=1.0, positions=rule)
    answers = [" yes no", " paris"]
    requests = [
        instance("loglikelihood", {}, (text, answer), i, number=i)
        for i, (text, answer) in enumerate(zip(PROMPTS, answers, strict=True))
    ]
    found = lm.loglikelihood(requests, disable_tqdm=True)
    config = SteeringConfig(strength=1.0, positions=rule)
    for text, answer, (value, _) in zip(PROMPTS, answers, found, strict=True):
        context, tokens = (torch.tensor([each]) for each in lm._encode_pair(text, answer))
        start = torch.tensor([[lm.config.decoder_start_token_id]])
        with steered(lm.model, vectors, config, prompt_lengths=torch.tensor([1])), torch.no_grad():
            out = lm.model(context, decoder_input_ids=torch.cat([start, tokens[:, :-1]], dim=1))
        logprobs = out.logits.log_softmax(-1).gather(-1, tokens[..., None])
        assert value == pytest.approx(float(logprobs.sum()), abs=1e-4)


def test_a_pass_of_prompt_and_answer_together_is_refused(tiny_text, loaded_text, tmp_path):
    source = save_vectors(vectors_for(loaded_text("llama").model), tmp_path / "v")
    lm = open_lm(tiny_text("llama"), vectors=str(source), strength=1.0, positions="last")
    with lm.steering(), pytest.raises(GrainsError, match=r"positions=last: .* run together in one forward pass"):
        lm.model(torch.tensor([[1, 270]]))
