"""Models with a fault that only some ways of running show: whatever else runs beside, the proof finds it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers as hf

from grains_eval.harness.prefix_sharing.loglikelihood import PreparedContext, score, score_prepared, shared_scores
from grains_eval.harness.prefix_sharing.passes import Pass
from grains_eval.harness.prefix_sharing.proof import Deviation, Proof, describe
from tests.harness.prefix_sharing.test_image_loglikelihood import ImageModel
from tests.harness.prefix_sharing.test_loglikelihood import furthest, plainly, steering
from tests.harness.prefix_sharing.test_proof import LIMIT, asked
from tests.harness.test_images import PICTURES, request
from tests.harness.test_unusual_images import ANSWERS
from tests.tiny import LLAMA, fill, save
from tests.unusual import SWITCH, mllama


def past_a_length(positions, cached):
    return positions >= SWITCH if cached and int(positions.max()) >= SWITCH else None


def continued(positions, cached):
    return torch.ones_like(positions) if cached else None


def from_the_second_fed_token_on(positions, cached):
    return torch.arange(positions.shape[1])[None] > 0 if cached else None


def beside_a_long_row(positions, cached):
    return torch.ones_like(positions) if len(positions) > 1 and int(positions.max()) >= SWITCH else None


def in_company(positions, cached):
    return torch.ones_like(positions) if len(positions) > 1 else None


def faulty(where, longest):
    """A Llama that takes the negative of some of its embeddings, and the handle that mends it."""
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**{**LLAMA, "max_position_embeddings": longest})).eval()
    fill(model)

    def spoil(module, arguments, keywords):
        hidden, cache = arguments[0], keywords.get("past_key_values")
        cached = cache is not None and cache.get_seq_length() > 0
        mask = where(keywords["position_ids"].expand(hidden.shape[:2]), cached)
        return (
            None if mask is None else ((torch.where(mask.bool()[..., None], -hidden, hidden), *arguments[1:]), keywords)
        )

    return model, model.model.layers[0].register_forward_pre_hook(spoil, with_kwargs=True)


SINGLE = asked((20, 30, 40), (1, 1), seed=4)
SEVERAL = asked((22, 28), (3, 4), seed=5)
CROSSING = asked((61,), (2, 8, 9), seed=9)
LONG_SINGLE = asked((120,), (1, 1), seed=8)
LONG_ROW = asked((120,), (2,), seed=8)
FAULTS = {
    "an answer that crosses a length, beside a longer row": (past_a_length, SWITCH, SEVERAL + CROSSING + LONG_ROW),
    "the same beside longer requests of one-token answers": (past_a_length, SWITCH, CROSSING + LONG_SINGLE + SINGLE),
    "the same where one answer of the context is one token": (
        past_a_length,
        SWITCH,
        asked((61,), (1, 5, 8), seed=9) + LONG_ROW,
    ),
    "answers of several tokens, where longer ones have one": (continued, 4096, SINGLE + LONG_SINGLE + SEVERAL),
    "answers that feed several tokens, where longer ones feed one": (
        from_the_second_fed_token_on,
        4096,
        asked((100,), (2, 2), seed=1) + asked((30,), (3, 3), seed=2),
    ),
    "the same in one context": (
        from_the_second_fed_token_on,
        4096,
        asked((30,), (2, 3), seed=1) + asked((99,), (2, 2), seed=2) + SINGLE,
    ),
    "short rows beside one that crosses a length": (beside_a_long_row, SWITCH, SEVERAL + LONG_ROW),
    "the same with one-token answers": (beside_a_long_row, SWITCH, asked((20, 30, SWITCH + 8), (1, 1))),
    "rows in company": (in_company, 4096, SINGLE),
    "a preamble's continuation, beside another task": (
        continued,
        4096,
        SINGLE + asked(range(20, 26), (3, 4), preamble=90, seed=2),
    ),
}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault, order):
    where, longest, requests = FAULTS[fault]
    requests = requests[::order]
    model, spoilt = faulty(where, longest)
    trusted = score(model, requests, [()], max_length=LIMIT)
    assert shared_scores(model, requests, [()], max_length=LIMIT) is None
    assert "off by" in describe(model, True)[1]
    spoilt.remove()
    assert furthest(trusted, [plainly(model, requests, (), LIMIT)]) > 0.01


def test_steering_of_answers_is_proved_where_the_longest_request_has_nothing_to_steer(loaded_text, monkeypatch):
    model = loaded_text("llama").model
    monkeypatch.setattr(Pass, "roles", lambda plan, real=Pass.roles: replace(real(plan), in_prompt=torch.tensor(True)))
    requests = asked((50,), (1, 1)) + asked((30,), (5,), seed=3)
    generated = (steering(model, [1], 3.0, positions="generated"),)
    trusted = score(model, requests, [generated], max_length=LIMIT)
    assert furthest(trusted, [plainly(model, requests, generated, LIMIT)]) > 0.01
    with pytest.raises(Deviation, match="30 prompt and 5 answer tokens was steered, off by"):
        score(model, requests, [generated], max_length=LIMIT, proof=Proof(model, [generated]))


@pytest.fixture
def seeing(tmp_path):
    def get(share):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            folder = str(save(*mllama(), tmp_path / str(share)))
        lm = ImageModel(pretrained=folder, dtype="float32", device="cpu", batch_size=2)
        lm.share_context = share
        return lm

    return get


@pytest.mark.parametrize("together", [True, False])
def test_pictures_in_the_second_task_only(together, seeing):
    """Text agrees on both ways; pictures do not."""
    question = "What is it, then, the capital or the king, yes or no? The picture is red."
    text = [request((question, answer), number) for number, answer in enumerate(ANSWERS)]
    shown = [request(("<image>\nWhat is it?", answer, {"visual": PICTURES[:1]}), 9) for answer in ANSWERS]
    lm, plain = seeing(True), seeing(False)
    found = []
    for task in [text + shown] if together else [text, shown]:
        found += lm.loglikelihood(task, disable_tqdm=True)
        if task is text:
            assert describe(lm.model, True)[0] == "shared_context"
    expected = plain.loglikelihood(text + shown, disable_tqdm=True)
    assert [each[0] for each in found] == pytest.approx([each[0] for each in expected], abs=2e-5)
    assert describe(lm.model, True)[0] == "shared_context, then plain"


def test_a_context_with_pictures_hides_no_answer_that_feeds_more(loaded_text):
    proof = Proof(loaded_text("llama").model, [()])
    proof.check = lambda _: None
    prepared = [
        PreparedContext({"input_ids": torch.tensor([[5, 6, 7]])}, [(8,) * n], lambda *_: 0.0, 1)
        for n in (1, 2, 1, 4, 2, 5)
    ]
    score_prepared(proof.model, prepared, [()], proof=proof)
    assert [each.answer for each in proof.pending] == [1, 2, 4]
