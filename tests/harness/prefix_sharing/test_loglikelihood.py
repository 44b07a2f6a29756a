"""Shared-context scoring against one plain hooked forward pass per request, on every family."""

from __future__ import annotations

import random
from contextlib import ExitStack

import pytest
import torch
import transformers as hf
from lm_eval.models.huggingface import HFLM
from peft import PromptTuningConfig, get_peft_model

from grains_eval.errors import GrainsError
from grains_eval.harness.prefix_sharing.loglikelihood import ScoringOptions, score, shared_scores
from grains_eval.harness.prefix_sharing.proof import shareable
from grains_eval.models.layers import find_attention_outputs, find_layers
from grains_eval.steering import OPERATORS, ResolvedSteering, applied
from tests.tiny import LLAMA, VOCABULARY, fill

FAMILIES = [
    "llama",
    "qwen2",
    "qwen3_moe",
    "mistral",
    "mixtral",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "opt",
]
LIMIT = 40  # tokens; longer requests are truncated


def requests(seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Several choices a context, single tokens, lone continuations, one-token and cut contexts, repeats."""
    draw = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(count)]

    shared = tokens(20)
    contexts = [
        tokens(9),
        tokens(13),
        shared + tokens(3),
        shared + tokens(7),
        shared + tokens(4),
        tokens(1),
        tokens(60),
    ]
    made = [(context, tokens(draw.randrange(1, 6))) for context in contexts for _ in range(4)]
    made += [(tokens(12), tokens(5)), (tokens(11), tokens(1)), (tokens(2), tokens(LIMIT))]
    made.append(made[0])
    draw.shuffle(made)
    return made


def steering(model, layers, strength, *, positions="all", operator="add_renormalised", site="block_output"):
    modules = find_attention_outputs(model) if site == "attention_heads" else None
    width = modules[0].weight.shape[0] if modules else model.config.get_text_config(decoder=True).hidden_size
    deltas = {}
    for layer in layers:
        direction = torch.randn(width, generator=torch.Generator().manual_seed(layer))
        deltas[layer] = strength * direction / direction.norm()
    return ResolvedSteering(deltas, site, OPERATORS[operator], positions)


def configurations(model):
    """Baseline, first to last layer, several layers, position rules, heads, operators, two at once."""
    last = len(find_layers(model)) - 1
    return [
        (),
        (steering(model, [0], 4.0),),
        (steering(model, [last], 3.0),),
        (steering(model, [last], -3.0),),
        (steering(model, [1, last], 3.0),),
        (steering(model, [1], 3.0, positions="prompt"),),
        (steering(model, [1], 3.0, positions="last"),),
        (steering(model, [1], 3.0, positions="generated"),),
        (steering(model, [1], -3.0, positions="generated"),),
        (steering(model, [0, last], 2.0, positions="generated"), steering(model, [1], 1.0, positions="generated")),
        (steering(model, [1], 1.0, positions="generated"), steering(model, [last], 2.0, positions="prompt")),
        (steering(model, [1], 2.0, operator="add"),),
        (steering(model, [0, last], 1.0, site="attention_heads"),),
        (steering(model, [last], 1.0, site="attention_heads"), steering(model, [1], 2.0, operator="add")),
        (steering(model, [1], 2.0, operator="add"), steering(model, [1], 2.0)),
    ]


def plainly(model, asked, configuration, limit=LIMIT, dtype=None):
    """What `hf` with hooks gives: one request after another, nothing shared."""
    found = []
    for context, continuation in asked:
        row = (context + continuation)[-(limit + 1) :][:-1]
        ids = torch.tensor([row], device=model.device)
        end = torch.tensor([len(row) - len(continuation) + 1])
        with torch.no_grad(), ExitStack() as stack:
            for each in configuration:
                stack.enter_context(applied(model, each, end))
            logits = model(ids).logits[0, -len(continuation) :]
        logprobs = logits.log_softmax(-1, dtype=dtype)
        tokens = torch.tensor(continuation, device=logits.device)
        total = logprobs.gather(-1, tokens[:, None]).double().sum()  # the sum of 40 float32 terms is coarser
        found.append((float(total), bool((logprobs.argmax(-1) == tokens).all())))
    return found


def furthest(left, right):
    """Largest difference in nats between two sets of scores."""
    pairs = [pair for x, y in zip(left, right, strict=True) for pair in zip(x, y, strict=True)]
    return max(abs(a[0] - b[0]) for a, b in pairs)


def greedy_choice(model, asked):
    """The same requests with some continuations replaced by what the model would say, so that hits occur."""
    changed = []
    for index, (context, continuation) in enumerate(asked):
        if index % 4 == 0 and len(context) + len(continuation) < LIMIT:
            row = list(context)
            with torch.no_grad():
                for _ in continuation:
                    row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
            continuation = row[len(context) :]
        changed.append((context, continuation))
    return changed


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_plain_hooks(family, loaded_text):
    model = loaded_text(family).model
    asked = greedy_choice(model, requests())
    wanted = configurations(model)
    found = score(model, asked, wanted, max_length=LIMIT)
    moved = 0.0
    for configuration, scores in zip(wanted, found, strict=True):
        expected = plainly(model, asked, configuration)
        assert max(abs(a[0] - b[0]) for a, b in zip(scores, expected, strict=True)) < 1e-5
        assert [a[1] for a in scores] == [b[1] for b in expected]
        moved = max(moved, max(abs(a[0] - b[0]) for a, b in zip(scores, found[0], strict=True)))
    assert moved > 0.1 and any(hit for _, hit in found[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_no_further_from_the_truth_than_hf(family, tiny_text):
    folder = str(tiny_text(family))
    lm = HFLM(pretrained=folder, dtype="bfloat16", device="cpu", batch_size=3, max_length=LIMIT)
    half = lm.model
    # the weights themselves are rounded: the truth is the rounded model, computed exactly
    exact = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, experts_implementation="eager").eval()
    exact.load_state_dict({name: value.double() for name, value in half.state_dict().items()})
    asked = [each for seed in range(3) for each in requests(seed)]
    for configuration in [(), (steering(half, [1], 3.0),)]:
        truth = plainly(exact, asked, configuration)

        def error(scores, truth=truth):
            return sum(abs(a[0] - b[0]) for a, b in zip(scores, truth, strict=True)) / len(truth)

        with ExitStack() as stack:
            for each in configuration:
                stack.enter_context(applied(half, each))
            theirs = lm._loglikelihood_tokens([(("", ""), *each) for each in asked], disable_tqdm=True)
        ours = score(half, asked, [configuration], max_length=LIMIT)[0]
        fine = score(
            half, asked, [configuration], max_length=LIMIT, options=ScoringOptions(softmax_dtype=torch.float32)
        )[0]
        assert error(fine) < error(ours) < error(theirs)


def test_progress_counts_every_request(loaded_text):
    counted = []
    score(
        loaded_text("llama").model, requests(), [()], max_length=LIMIT, options=ScoringOptions(progress=counted.append)
    )
    assert sum(counted) == len(requests())


def test_refusals(loaded_text):
    model = loaded_text("llama").model
    with pytest.raises(GrainsError, match="model takes 4"):
        score(model, [([1], [2] * 5)], [()], max_length=4)
    beyond = ResolvedSteering({9: torch.ones(32)}, "block_output", OPERATORS["add"], "all")
    with pytest.raises(GrainsError, match="layer 9 is out of range"):
        score(model, [([1], [2])], [(beyond,)], max_length=4)


def test_models_that_cannot_share_are_told_apart(loaded_text, caplog):
    for family in FAMILIES:
        assert shareable(loaded_text(family).model)
    assert not shareable(loaded_text("bart").model)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    assert not shareable(hf.MambaForCausalLM(hf.MambaConfig(**sizes)).eval())
    unknown = hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)).eval()
    unknown.config.num_hidden_layers += 1
    assert not shareable(unknown)
    assert "its decoder layers are not found" in caplog.text
    prompted = hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)).eval()
    fill(prompted)
    tuned = get_peft_model(prompted, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    assert shared_scores(tuned, requests(), [()], max_length=LIMIT) is None
    assert not shareable(tuned)
    assert "plain path" in caplog.text


def test_a_model_that_ignores_positions_is_found_out():
    class Deaf(hf.LlamaForCausalLM):
        def forward(self, *arguments, position_ids=None, **keywords):
            return super().forward(*arguments, **keywords)

    model = Deaf(hf.LlamaConfig(**LLAMA)).eval()
    fill(model)
    assert shared_scores(model, requests(), [()], max_length=LIMIT) is None
    assert not shareable(model)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_learned_positions_end_where_the_model_ends(family, loaded_text):
    model = loaded_text(family).model
    draw = random.Random(0)
    asked = [
        ([draw.randrange(3, VOCABULARY) for _ in range(1030)], [draw.randrange(3, VOCABULARY) for _ in range(n)])
        for n in (2, 9)
    ]
    asked = [(context, [*answer[:-1], end]) for context, answer in asked for end in (5, 6)]
    asked += [(context, [7, *answer[1:]]) for context, answer in asked]
    found = score(model, asked, [()], max_length=1024, options=ScoringOptions(4))[0]
    expected = plainly(model, asked, (), limit=1024)
    assert max(abs(a[0] - b[0]) for a, b in zip(found, expected, strict=True)) < 2e-5
