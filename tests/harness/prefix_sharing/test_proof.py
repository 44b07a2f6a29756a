"""Sharing proves itself on the requests at hand: whatever a model does, the numbers are those of a plain pass."""

from __future__ import annotations

import random
from contextlib import ExitStack, contextmanager

import pytest
import torch
import transformers as hf
from lm_eval.models.huggingface import HFLM

from grains_eval.errors import GrainsError
from grains_eval.harness.model import GrainsHF
from grains_eval.harness.prefix_sharing import plan
from grains_eval.harness.prefix_sharing.loglikelihood import Memo, SharedContextMixin, score, shared_scores
from grains_eval.harness.prefix_sharing.probes import Probe
from grains_eval.harness.prefix_sharing.proof import Proof, describe, give_up, plain_logprob, shareable, standing
from grains_eval.steering import Mover, applied
from tests.harness.prefix_sharing.test_loglikelihood import furthest, plainly, steering
from tests.tiny import LLAMA, VOCABULARY, fill, tokenizer
from tests.unusual import SWITCH, dynamic, longrope

LIMIT = 400


class TextModel(SharedContextMixin, HFLM):
    """The class under test, steered by a configuration in memory."""

    configuration = ()

    @property
    def steering_configuration(self):
        return self.configuration

    @contextmanager
    def steering(self):
        with ExitStack() as stack:
            for each in self.configuration:
                stack.enter_context(applied(self.model, each))
            yield


def tokens(count, draw):
    return [draw.randrange(3, VOCABULARY) for _ in range(count)]


def asked(contexts, answers, *, preamble=0, seed=0):
    """Every context with an answer of every length."""
    draw = random.Random(seed)
    opening = tokens(preamble, draw)
    return [
        (context, tokens(n, draw)) for size in contexts for context in [opening + tokens(size, draw)] for n in answers
    ]


def named(requests):
    return [((str(index), ""), *request) for index, request in enumerate(requests)]


def lm_of(model, **settings):
    words = tokenizer()
    return TextModel(
        pretrained=model,
        tokenizer=words,
        backend="causal",
        device="cpu",
        max_length=LIMIT,
        **{"batch_size": 1} | settings,
    )


# what crosses the switch: contexts, the answer alone, a preamble's continuation, the longest row of a pass
CROSSINGS = {
    "preamble": {"contexts": range(17, 26), "answers": (4, 4, 3), "preamble": 48},
    "answer": {"contexts": (20, 30, SWITCH - 1), "answers": (2, 3, 4)},
    "company": {"contexts": (20, 30, SWITCH + 8), "answers": (1, 1)},
    "lone": {"contexts": (30, SWITCH + 8), "answers": (5,)},
}


@pytest.mark.parametrize("crossing", CROSSINGS)
@pytest.mark.parametrize("made", [longrope, dynamic])
def test_position_scales_that_depend_on_length(made, crossing, caplog):
    model, requests = made(), asked(**CROSSINGS[crossing])
    wanted = [(), (steering(model, [1], 2.0),)]
    trusted = score(model, requests, wanted, max_length=LIMIT)
    off = furthest(trusted, [plainly(model, requests, each, LIMIT) for each in wanted])
    assert off > 0.01
    assert shared_scores(model, requests, wanted, max_length=LIMIT) is None
    assert "off by" in caplog.text and describe(model, True)[0] == "plain"


def zero_shot():
    """One context short of the switch and one at it: in rows of its own each is right."""
    return [(tokens(SWITCH - 1, random.Random(8)), [7, 8, 9]), (tokens(SWITCH, random.Random(9)), [7, 8, 9, 10])]


# tasks that run together with the one whose preamble's continuations cross the switch
COMPANIES = {
    "zero-shot": [zero_shot()],
    "few-shot": [asked(range(20, 26), (3, 4), preamble=90, seed=2)],
    "both": [zero_shot(), asked(range(20, 26), (3, 4), preamble=90, seed=2)],
}


@pytest.mark.parametrize("company", COMPANIES)
@pytest.mark.parametrize("made", [longrope, dynamic])
@pytest.mark.parametrize("order", [1, -1])
def test_no_task_hides_another_that_crosses(made, company, order):
    model = made()
    crossing = asked(range(19, 26), (3, 4), preamble=48, seed=1)
    requests = [each for task in [*COMPANIES[company], crossing][::order] for each in task]
    trusted = score(model, requests, [()], max_length=LIMIT)
    assert furthest(trusted, [plainly(model, requests, (), LIMIT)]) > 0.01
    assert shared_scores(model, requests, [()], max_length=LIMIT) is None


def test_a_later_batch_that_crosses_is_proved_anew(caplog):
    model = longrope()
    lm, short = lm_of(model), named(asked((20, 30), (4, 3)))
    crossing = named(asked((20, SWITCH + 1), (4, 3), preamble=12))
    reference = HFLM(pretrained=model, tokenizer=tokenizer(), backend="causal", device="cpu", max_length=LIMIT)
    for each in (short, crossing):
        found = lm._loglikelihood_tokens(each, disable_tqdm=True)
        expected = reference._loglikelihood_tokens(each, disable_tqdm=True)
        assert [a[0] for a in found] == pytest.approx([b[0] for b in expected], abs=1e-5)
        shared = each is short
        assert (found != expected) == shared  # the plain path is `hf` bit for bit
        assert ("off by" not in caplog.text) == shared
    path, reason = describe(model, True)
    assert path == "shared_context, then plain" and "answer tokens was off by" in reason
    assert len([record for record in caplog.records if "plain path" in record.message]) == 1


def test_a_steered_difference_is_found_where_the_unsteered_model_agrees(monkeypatch):
    model = longrope()
    requests = asked((20, 30), (4, 3))

    class Idle(Mover):
        def move(self, hidden, where):
            return hidden

    monkeypatch.setattr("grains_eval.harness.prefix_sharing.configurations.Mover", Idle)
    assert shared_scores(model, requests, [()], max_length=LIMIT) is not None
    assert shared_scores(model, requests, [(), (steering(model, [1], 2.0),)], max_length=LIMIT) is None
    assert "was steered, off by" in describe(model, True)[1]


def test_a_sweep_on_the_plain_path_gives_every_setting_its_own(caplog):
    model = dynamic()
    lm, requests = lm_of(model), named(asked((20, SWITCH + 8), (4, 3)))
    wanted = [(), (steering(model, [1], 2.0),)]
    lm.memo = Memo(wanted)
    for index, each in enumerate(wanted):
        lm.memo.active, lm.configuration = index, each
        lm.share_context = True
        found = lm._loglikelihood_tokens(requests, disable_tqdm=True)
        lm.share_context = False
        assert found == lm._loglikelihood_tokens(requests, disable_tqdm=True)
    assert not lm.memo.scores


class Foresight(hf.LlamaForCausalLM):
    """A Llama each of whose tokens knows a little of the whole row."""

    def forward(self, input_ids=None, **keywords):
        embeddings = self.model.embed_tokens(input_ids)
        return super().forward(inputs_embeds=embeddings + embeddings.mean(1, keepdim=True), **keywords)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("answers", [(4, 3), (5,), (1, 1)])
def test_a_model_that_sees_the_answer_is_refused(share, answers):
    model = Foresight(hf.LlamaConfig(**LLAMA)).eval()
    fill(model)
    lm = lm_of(model, batch_size=2)
    lm.share_context = share
    with pytest.raises(GrainsError, match="Foresight lets tokens see later ones: another last token moved"):
        lm._loglikelihood_tokens(named(asked((20,), answers)), disable_tqdm=True)


def test_whatever_breaks_sharing_leaves_the_plain_path(monkeypatch, caplog):
    model = longrope()
    requests = asked((20, 30), (4, 3))
    with monkeypatch.context() as patch:
        patch.setattr("grains_eval.harness.prefix_sharing.passes._Branch.update", lambda *_: None)
        assert shared_scores(model, requests, [()], max_length=LIMIT) is None
    assert "sharing failed (TypeError" in caplog.text
    assert shared_scores(model, requests, [()], max_length=LIMIT) is None  # remembered
    with pytest.raises(GrainsError, match="the model takes 4"):  # the request's fault, not the model's
        shared_scores(dynamic(), [([1], [2] * 5)], [()], max_length=4)


def test_the_proof_leaves_scores_and_position_scales_as_they_were():
    requests = asked((20, SWITCH + 8), (4, 3))
    model = dynamic()
    reference = HFLM(pretrained=dynamic(), tokenizer=tokenizer(), backend="causal", device="cpu", max_length=LIMIT)
    lm = lm_of(model)
    for _ in range(2):
        found = lm._loglikelihood_tokens(named(requests), disable_tqdm=True)
        assert found == reference._loglikelihood_tokens(named(requests), disable_tqdm=True)
    # a plain score alone is one of a fresh model, whatever ran before
    below = asked((20,), (3,))
    assert plainly(model, below, (), LIMIT) == plainly(dynamic(), below, (), LIMIT)


def test_a_longer_row_before_a_probe_does_not_change_its_plain_score():
    """Prompts with images are passed as they are: nothing but the proof forgets the longest row."""
    model, (context, answer) = dynamic(), asked((SWITCH + 2,), (3,))[0]

    def score_of(of):
        logits = of(torch.tensor([[*context, *answer[:-1]]])).logits[0, -len(answer) :]
        return float(logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).sum())

    with torch.no_grad():
        alone = score_of(dynamic())
        model(torch.tensor([tokens(4 * SWITCH, random.Random(1))]))
        assert abs(score_of(model) - alone) > 0.01
        proof = Proof(model, [()])
        proof.pending = [Probe(0, len(context), len(answer), lambda _: score_of(model))]
        proof.check([{0: (alone, True)}])
    assert standing(model).proved == 1


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_no_token_is_put_past_the_last_position(family, loaded_text):
    model = loaded_text(family).model
    requests = asked((1030,), (3, 4))
    found = shared_scores(model, requests, [()], max_length=1024)
    assert found is not None
    assert furthest(found, [plainly(model, requests, (), 1024)]) < 1e-4


def test_where_nothing_is_wrong_the_reason_says_what_was_compared(loaded_text):
    model = loaded_text("llama").model
    before = standing(model).proved
    steered = [(steering(model, [1], strength),) for strength in (1.0, 2.0)]
    assert shared_scores(model, asked((10, 50), (4, 3)), [(), *steered], max_length=LIMIT) is not None
    assert standing(model).proved == before + 4  # two lengths, unsteered and one of the steered
    path, reason = describe(model, True)
    assert path == "shared_context" and "scores computed both ways" in reason
    assert describe(model, False) == ("plain", "share_context=false")


def test_a_preamble_is_part_of_what_is_proved(loaded_text, monkeypatch):
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)).eval()
    fill(model)
    requests = asked((9, 7, 8), (3, 2), preamble=20)
    monkeypatch.setattr(plan, "_PASS_COST", 0)
    real = plan.group_by_prefix(plan.group(requests, LIMIT)[0])
    assert [each.prefix for each in real] == [20]
    # what only a preamble would show: its keys are turned round
    opened = []

    def spoil(module, arguments, output):
        opened.append(output.shape[:2])
        return -output if output.shape[:2] == (1, 20) else output

    handle = model.model.layers[0].self_attn.v_proj.register_forward_hook(spoil)
    try:
        assert shared_scores(model, requests, [()], max_length=LIMIT) is None
    finally:
        handle.remove()
    assert (1, 20) in opened and not shareable(model)
    other = loaded_text("qwen2").model
    assert plain_logprob(other, *requests[0]) == pytest.approx(plainly(other, requests[:1], (), LIMIT)[0][0], abs=1e-5)


def test_giving_up_is_said_once(caplog):
    model = dynamic()
    give_up(model, "of a test")
    assert not shareable(model) and not shareable(model)
    assert caplog.text.count("contexts are not shared, of a test") == 1


def test_results_say_which_path_ran_and_why_and_the_cache_keeps_paths_apart(tiny_text):
    folder = str(tiny_text("llama"))
    ours, theirs = (
        GrainsHF(pretrained=folder, dtype="float32", device="cpu", batch_size=1, share_context=share)
        for share in (True, False)
    )
    ours._loglikelihood_tokens(named(asked((20,), (4, 3))), disable_tqdm=True)
    found, plain = ours.get_model_info(), theirs.get_model_info()
    assert found["scoring_path"] == "shared_context" and found["scoring_path_reason"].startswith(
        "scores computed both ways: 1, "
    )
    assert (plain["scoring_path"], plain["scoring_path_reason"]) == ("plain", "share_context=false")
    assert ours.cache_fingerprint() != theirs.cache_fingerprint()
    assert ours.steering_fingerprint() != theirs.steering_fingerprint()
