"""Context-aware decoding through `grains_hf` against its equation, on a linear model and on real architectures."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from lm_eval.api.model import CachingLM
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from grains_eval.artifacts.layout import ArtifactContents
from grains_eval.artifacts.load import open_artifact
from grains_eval.artifacts.save import save_artifact, save_vectors
from grains_eval.errors import GrainsError
from grains_eval.harness.contrastive import Pair, WithoutContext, contrasted, encode_pair, score_contrasted
from grains_eval.harness.sweep import evaluate_settings
from grains_eval.types import Contrast
from tests.harness.test_model import vectors_for
from tests.instances import instance
from tests.reference.linear import linear_model
from tests.virtual_tokens.models import some_found

DOCS = [
    {"c": "the circle is green.", "q": "What is the circle"},
    {"c": "paris is a dog, and the cat is in rome. yes.", "q": "What is paris"},
    {"c": "", "q": "What is a square in the world"},
    {"c": "no.", "q": "Is it safe"},
]
CHOICES = [" red", " blue green", " a good dog"]
SETTINGS = {"until": ["zzz"], "max_gen_toks": 5, "do_sample": False}


def prompt(doc):
    return f"Question {doc['c']} {doc['q']} answer"


def requests(kind="loglikelihood", task="reading", docs=DOCS):
    answers = [SETTINGS] if kind == "generate_until" else CHOICES
    return [
        instance(kind, doc, (prompt(doc), answer), index, task=task, number=number)
        for number, doc in enumerate(docs)
        for index, answer in enumerate(answers)
    ]


@pytest.fixture
def folder(tmp_path):
    def make(alpha=0.7, contexts=None, name="contrast"):
        contents = ArtifactContents(
            contrast=Contrast(alpha, contexts or {"reading": "{{c}}"}), provenance={"method": "contrastive"}
        )
        return str(save_artifact(contents, tmp_path / name))

    return make


def answers(lm, asked):
    return getattr(lm, asked[0].request_type)(asked, disable_tqdm=True)


def test_scores_on_a_linear_model_follow_from_the_equation():
    """Logits at position `t` are `U M (x_1 + ... + x_t)`, so those of both prompts can be written down."""
    model = linear_model().model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings().weight.detach()
    product = model.decoder.layers[1].weight.detach() @ model.decoder.layers[0].weight.detach()
    lm = SimpleNamespace(
        model=model, batch_size=2, rank=0, device="cpu", max_length=50, softmax_dtype=None,
        _model_call=lambda ids: model(inputs_embeds=embedding(ids)).logits,
    )  # fmt: skip
    pairs = [Pair((1, 2, 3), (1, 3), (5, 6)), Pair((1, 2, 3), (1, 3), (5, 7)), Pair((4,), (4,), (2,))]
    found = score_contrasted(lm, pairs, [0.0, 1.5], disable_tqdm=True)
    for row, alpha in enumerate((0.0, 1.5)):
        for column, pair in enumerate(pairs):
            total, greedy = 0.0, True
            for step, token in enumerate(pair.answer):
                full, bare = (
                    head @ product @ embedding.weight.detach()[[*ids, *pair.answer[:step]]].sum(dim=0)
                    for ids in (pair.full, pair.bare)
                )
                logits = (1 + alpha) * full - alpha * bare
                total += float(logits[token] - logits.exp().sum().log())
                greedy = greedy and int(logits.argmax()) == token
            assert found[row][column] == (pytest.approx(total, abs=1e-4), greedy)


@torch.no_grad()
def score_by_hand(lm, doc, choice, alpha):
    """With whatever else steers the model, in its prompts or in its layers."""
    without = prompt(doc).replace(doc["c"], "", 1) if doc["c"] else prompt(doc)
    pair = encode_pair(lm, prompt(doc), without, choice)
    inserted, rows = lm.insertion, [list(pair.full), list(pair.bare)]
    rows = rows if inserted is None else [inserted.into(row) for row in rows]
    count = len(pair.answer)
    with lm.steering(), nullcontext() if inserted is None else inserted.known_to(lm.model):
        full, bare = (lm.model(torch.tensor([[*row, *pair.answer[:-1]]])).logits[0, -count:] for row in rows)
    mixed = ((1 + alpha) * full - alpha * bare).log_softmax(-1)
    return float(mixed.gather(-1, torch.tensor(pair.answer)[:, None]).sum())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_loglikelihoods_with_contexts_and_without_in_their_order(family, folder, open_lm):
    lm, plain = open_lm(family, vectors=folder()), open_lm(family)
    asked = [*requests(), *requests(task="other")]
    found, before = answers(lm, asked), answers(plain, asked)
    for index, (request, (value, _)) in enumerate(zip(asked, found, strict=True)):
        if request.task_name == "other" or not request.doc["c"]:
            assert value == pytest.approx(before[index][0], abs=1e-4)
        else:
            assert value == pytest.approx(score_by_hand(lm, request.doc, request.args[1], 0.7), abs=2e-3)
            assert abs(value - before[index][0]) > 1e-3


@torch.no_grad()
def generated_by_hand(lm, doc, alpha):
    texts = [prompt(doc), prompt(doc).replace(doc["c"], "", 1) if doc["c"] else prompt(doc)]
    rows = [lm.tok_encode(text) for text in texts]
    new = []
    for _ in range(SETTINGS["max_gen_toks"]):
        full, bare = (lm.model(torch.tensor([[*row, *new]])).logits[0, -1] for row in rows)
        new.append(int(contrasted(full, bare, alpha).argmax()))
    return lm.tok_decode(new)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_generation_is_greedy_in_the_contrast_alone_and_in_a_padded_batch(family, batch_size, folder, open_lm):
    lm = open_lm(family, vectors=folder(alpha=2.0), batch_size=batch_size)
    found = answers(lm, requests("generate_until"))
    assert found == [generated_by_hand(lm, doc, 2.0) for doc in DOCS]
    assert found != answers(open_lm(family), requests("generate_until"))


def test_alpha_zero_is_the_plain_model_and_strength_overrides(folder, open_lm):
    for kind in ("loglikelihood", "generate_until"):
        off = answers(open_lm(vectors=folder(name=kind), strength=0), requests(kind))
        assert off == answers(open_lm(), requests(kind))
    lm = open_lm(vectors=folder(), strength=1.5)
    assert lm.contrast == Contrast(1.5, {"reading": "{{c}}"})
    assert lm.describe_steering()[0]["contrast"] == {"alpha": 1.5, "contexts": {"reading": "{{c}}"}}
    assert lm.cache_fingerprint() != open_lm(vectors=folder(name="b")).cache_fingerprint()


def test_it_acts_together_with_vectors_and_found_tokens(folder, open_lm, tmp_path, loaded_text):
    model = loaded_text("llama").model
    moved = str(save_vectors(vectors_for(model), tmp_path / "v"))
    tokens = str(save_artifact(ArtifactContents(tokens=some_found(model)), tmp_path / "t"))
    contrast, asked = folder(), requests(docs=DOCS[:1])
    seen = []
    for other, extra in ((moved, {}), (tokens, {}), (tokens, {"form": "text"}), (tokens, {"form": "embedding"})):
        lm = open_lm(vectors=f"{contrast}+{other}", **extra)
        seen.append([value for value, _ in answers(lm, asked)])
        assert seen[-1] == pytest.approx([score_by_hand(lm, one.doc, one.args[1], 0.7) for one in asked], abs=2e-3)
    assert all(seen[i] != pytest.approx(seen[j], abs=1e-2) for i in range(4) for j in range(i))
    generated = [answers(open_lm(vectors=v, batch_size=4), requests("generate_until")) for v in (contrast, moved)]
    together = answers(open_lm(vectors=f"{contrast}+{moved}", batch_size=4), requests("generate_until"))
    assert together == answers(open_lm(vectors=f"{contrast}+{moved}", batch_size=1), requests("generate_until"))
    assert together not in generated


def test_what_cannot_be_contrasted_is_refused_in_one_line(folder, open_lm, tmp_path, loaded_text):
    moved = str(save_vectors(vectors_for(loaded_text("llama").model), tmp_path / "v"))
    contrast = folder()
    with pytest.raises(GrainsError, match="document 0: the declared context is not in its prompt"):
        answers(open_lm(vectors=folder(contexts={"reading": "rome {{c}}"}, name="other")), requests())
    with pytest.raises(GrainsError, match="unknown field of the data 'd'"):
        answers(open_lm(vectors=folder(contexts={"reading": "d"}, name="field")), requests())
    with pytest.raises(GrainsError, match="only one contrast"):
        open_lm(vectors=f"{contrast}+{contrast}")
    with pytest.raises(GrainsError, match="holds a contrast; 'layers' does not apply"):
        open_lm(vectors=contrast, layers=1)
    with pytest.raises(GrainsError, match="no weight of a contrast"):
        open_lm(vectors=contrast, strength=-1)
    with pytest.raises(GrainsError, match="positions=last cannot be followed"):
        answers(open_lm(vectors=f"{contrast}+{moved}", positions="last"), requests())
    beams = instance("generate_until", DOCS[0], (prompt(DOCS[0]), {**SETTINGS, "num_beams": 2}), task="reading")
    with pytest.raises(GrainsError, match="drop num_beams"):
        answers(open_lm(vectors=contrast), [beams])
    lm = open_lm(vectors=contrast)
    with pytest.raises(GrainsError, match="which a sweep cannot switch"):
        evaluate_settings(lm, [lm.applied], ["whatever"])


def test_the_artifact_comes_back_with_its_card(folder, tmp_path):
    held = open_artifact(folder())
    assert held.contrast == Contrast(0.7, {"reading": "{{c}}"}) and held.vectors is None and held.tokens is None
    assert "alpha 0.7" in (tmp_path / "contrast" / "README.md").read_text()


SAME = "the circle is green"


def same_prompt(kind, *contexts, answer=None):
    return [
        instance(kind, {"c": c, "q": "x"}, (SAME, answer or SETTINGS), 0, task="reading", number=number)
        for number, c in enumerate(contexts)
    ]


def test_one_prompt_with_two_contexts_is_generated_for_each(folder, open_lm):
    lm = open_lm(vectors=folder(alpha=3.0))
    asked = same_prompt("generate_until", "the circle", "green", SAME, "the circle")
    alone = [answers(lm, [each])[0] for each in asked]
    assert len(set(alone)) > 1
    assert answers(lm, asked) == alone


def test_the_cache_keeps_contrasted_answers_and_refuses_what_it_would_mix_up(folder, open_lm, tmp_path):
    lm = open_lm(vectors=folder())
    cached = CachingLM(lm, str(tmp_path / "cache.db"))
    asked = requests()
    found = lm.loglikelihood(asked, disable_tqdm=True)  # not through `cached`: what the scoring itself writes
    kept = {"loglikelihood": len(lm.cache_hook.dbdict)}
    assert kept["loglikelihood"] == len(asked)
    lm.loglikelihood = lambda *_, **__: pytest.fail("asked again")
    assert cached.loglikelihood(asked) == found
    for kind, answer in (("generate_until", None), ("loglikelihood", " red")):
        fresh = open_lm(vectors=folder(name=kind))
        through = CachingLM(fresh, str(tmp_path / f"{kind}.db"))
        with pytest.raises(GrainsError, match="document 1: its prompt is also asked with another context"):
            getattr(through, kind)(same_prompt(kind, "the circle", "green", answer=answer))


def test_an_empty_prompt_has_no_context_and_is_scored_plainly(folder, open_lm):
    asked = [instance("loglikelihood", DOCS[0], ("", choice), 0, task="reading") for choice in CHOICES]
    found = answers(open_lm(vectors=folder()), asked)
    assert [each[0] for each in found] == pytest.approx([each[0] for each in answers(open_lm(), asked)], abs=1e-4)


def chameleon():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    pictures = {"embed_dim": 8, "num_embeddings": 16, "latent_channels": 8, "base_channels": 32, "resolution": 16}
    config = ChameleonConfig(
        **sizes, num_key_value_heads=4, vocab_size=64,
        vq_config={**pictures, "channel_multiplier": [1], "num_res_blocks": 1, "attn_resolutions": None},
        vocabulary_map={"<image>": 4, **{f"IMGIMG{chr(65 + i)}Z": 20 + i for i in range(16)}},
    )  # fmt: skip
    torch.manual_seed(0)
    return ChameleonForConditionalGeneration(config).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_tokens_that_a_model_masks_with_its_least_number_stay_masked(dtype):
    model = chameleon().to(dtype)
    lm = SimpleNamespace(
        model=model, batch_size=2, rank=0, device="cpu", max_length=50, softmax_dtype=None,
        _model_call=lambda ids: model(ids).logits,
    )  # fmt: skip
    allowed = [token for token in range(64) if not 20 <= token < 36]
    full, bare = (model(torch.tensor([ids])).logits[0, -1] for ids in ((5, 6, 7), (5, 7)))
    alphas = (0.5, 1.5, 2.0)
    found = score_contrasted(lm, [Pair((5, 6, 7), (5, 7), (8,))], alphas)
    for alpha, scores in zip(alphas, found, strict=True):
        logits = ((1 + alpha) * full.float() - alpha * bare.float())[allowed].log_softmax(-1)
        assert scores[0][0] == pytest.approx(float(logits[allowed.index(8)]), abs=2e-2)
    ids = torch.tensor([[5, 7]])
    mixed = WithoutContext(model, ids, torch.ones_like(ids), 1.5)(torch.tensor([[5, 6, 7]]), full[None].float())
    assert mixed[0, 20:36].eq(-torch.inf).all() and mixed[0, allowed].isfinite().all()
    assert mixed.exp().sum() == pytest.approx(1, abs=1e-4)


def test_masked_tokens_stay_masked_and_what_is_not_finite_is_refused():
    scores, bare = torch.tensor([[0.0, 1.0, -math.inf]]), torch.tensor([[1.0, 0.0, -math.inf]])
    for other in (bare, bare.nan_to_num(neginf=3.0)):
        found = contrasted(scores, other, 1.5)
        assert found[0, 2] == -math.inf
        assert found[0, :2].tolist() == pytest.approx(torch.tensor([-1.5, 2.5]).log_softmax(0).tolist())
    assert torch.equal(contrasted(scores, bare, 0.0), scores.log_softmax(-1))
    for spoiled in (torch.tensor([[math.nan, 0.0, 0.0]]), torch.tensor([[-math.inf, 0.0, 0.0]])):
        with pytest.raises(GrainsError, match=r"^a contrast of alpha 1\.5 gave scores that are not finite"):
            contrasted(scores, spoiled, 1.5)
    with pytest.raises(GrainsError, match="not finite"):
        contrasted(torch.full((1, 3), math.nan), bare, 0.0)


def test_continuations_that_do_not_fit_or_are_empty_are_refused_as_without_a_contrast(folder, open_lm):
    lm = open_lm(vectors=folder(), max_length=6)
    for answer in (" red blue green a good dog the cat is in rome", ""):
        asked = [
            [instance("loglikelihood", DOCS[0], (prompt(DOCS[0]), answer), task=task)] for task in ("other", "reading")
        ]
        told = []
        for each in asked:
            with pytest.raises(GrainsError) as raised:
                answers(lm, each)
            told.append(str(raised.value))
        assert told[0] == told[1]


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until"])
def test_prompts_that_lose_their_context_at_max_length_are_counted_once(kind, folder, open_lm, caplog):
    """The question follows the context, so a cut takes the context first."""
    short, settings = DOCS[0], {**SETTINGS, "max_gen_toks": 1}
    asked = [each for each in requests(kind, docs=DOCS[:2]) if each.idx == 0]
    if kind == "generate_until":
        asked = [
            instance(kind, each.doc, (each.args[0], settings), task="reading", number=each.doc_id) for each in asked
        ]
    lm = open_lm(vectors=folder())
    limit = len(lm.tok_encode(prompt(short))) + 1
    assert len(lm.tok_encode(prompt(DOCS[1]))) > limit
    cut = open_lm(vectors=folder(name="cut"), max_length=limit, batch_size=2)
    found = answers(cut, asked)
    assert caplog.text.count("1 of 2 prompts lost some or all of their context") == 1
    alone = answers(lm, asked[:1])[0]  # what fits is as without a limit
    assert found[0] == (alone if kind == "generate_until" else pytest.approx(alone, abs=1e-4))
    caplog.clear()
    answers(cut, asked[:1])
    assert "lost some" not in caplog.text


def test_prompts_are_cut_from_the_left_as_lm_eval_cuts_them(open_lm):
    """Both prompts keep their last `max_length + 1` tokens with the answer, of which the last is not read."""
    lm = open_lm(max_length=5)
    found = score_contrasted(lm, [Pair((3, 4, 5, 6, 7), (3, 8, 9, 5), (10, 11))], [0.7], disable_tqdm=True)[0][0]
    with torch.no_grad():
        full, bare = (lm.model(torch.tensor([ids])).logits[0, -2:] for ids in ((4, 5, 6, 7, 10), (3, 8, 9, 5, 10)))
    expected = (1.7 * full - 0.7 * bare).log_softmax(-1)[[0, 1], [10, 11]].sum()
    assert found[0] == pytest.approx(float(expected), abs=1e-3)
