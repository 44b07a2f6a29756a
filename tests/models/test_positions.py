"""Which tokens are moved: every way of decoding beside whole forward passes with a mask written by hand."""

from __future__ import annotations

import functools

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from grains_eval.errors import GrainsError
from grains_eval.models.layers import find_layers, hidden_size
from grains_eval.steering import steered
from grains_eval.types import SteeringConfig, SteeringVectors
from tests.decoding import NEW, RULES, by_hand, vectors_for

IDS = torch.tensor([[1, 270, 280, 290, 300, 310, 320]])


def generate(model, rule, ids=IDS, real=None, lengths=None, **settings):
    with steered(model, vectors_for(model), SteeringConfig(strength=1.0, positions=rule), prompt_lengths=lengths):
        return model.generate(
            *([] if "input_ids" in settings else [ids]),
            attention_mask=torch.ones_like(ids) if real is None else real,
            **{"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **settings},
        )


FAMILIES = ["llama", "mistral", "gemma3_text", "openai_gpt", "mamba", "rwkv", "minimax", "jamba", "lfm2"]
# jamba's own answer differs from its answer without cache where its prompt is cut into chunks, unsteered too
CHUNKS = ["llama", "mistral", "gemma3_text", "lfm2"]
DECODING = [
    *((family, {}) for family in FAMILIES),
    *((family, {"use_cache": False}) for family in FAMILIES),
    *((family, {"prefill_chunk_size": size}) for family in CHUNKS for size in (3, 7, 64)),
    *((family, {"prompt_lookup_num_tokens": 2}) for family in CHUNKS),
    ("llama", {"cache_implementation": "static"}),
    ("mistral", {"cache_implementation": "static"}),
]


@pytest.fixture(scope="module")
def answers(loaded_text):
    """`answers("llama")` are that model's by hand, per rule."""

    @functools.cache
    def of(family):
        model = loaded_text(family).model
        return {rule: by_hand(model, rule, IDS, IDS.shape[1]) for rule in RULES}

    return of


@pytest.mark.parametrize(("family", "settings"), DECODING, ids=str)
def test_every_way_of_decoding_equals_whole_passes_with_a_mask_by_hand(loaded_text, answers, family, settings):
    model, answers = loaded_text(family).model, answers(family)
    assert len({tuple(answer[0].tolist()) for answer in answers.values()}) == 4, "no two rules may agree by chance"
    for rule, expected in answers.items():
        assert torch.equal(generate(model, rule, **settings), expected), rule


@pytest.mark.parametrize("settings", [{}, {"use_cache": False}, {"prefill_chunk_size": 3}], ids=str)
@pytest.mark.parametrize("family", ["llama", "lfm2"])
@pytest.mark.parametrize("rule", RULES)
def test_prompts_padded_on_the_left(loaded_text, family, settings, rule):
    model = loaded_text(family).model
    short = torch.cat([torch.zeros(1, 3, dtype=torch.long), IDS[:, :4]], dim=1)
    batch, real = torch.cat([short, IDS]), torch.ones(2, 7, dtype=torch.long)
    real[0, :3] = 0
    expected = by_hand(model, rule, batch, 7, real)
    assert torch.equal(generate(model, rule, batch, real, **settings), expected)


@pytest.mark.parametrize("settings", [{}, {"use_cache": False}], ids=str)
def test_the_last_token_of_a_prompt_padded_on_the_right_is_a_real_one(loaded_text, settings):
    model = loaded_text("llama").model
    ids, real = torch.cat([IDS[:, :5], torch.zeros(1, 2, dtype=torch.long)], dim=1), torch.ones_like(IDS)
    real[0, 5:] = 0
    wanted = by_hand(model, "last", ids, 5, real)
    assert not torch.equal(wanted, by_hand(model, "last", ids, 7, real))
    assert torch.equal(generate(model, "last", ids, real, **settings), wanted)


@pytest.mark.parametrize("rule", RULES)
def test_beams_are_those_without_a_cache(loaded_text, rule):
    model, settings = loaded_text("llama").model, {"num_beams": 3, "num_return_sequences": 3}
    for lengths in (None, torch.tensor([5])):
        plain = generate(model, rule, lengths=lengths, use_cache=False, **settings)
        assert torch.equal(generate(model, rule, lengths=lengths, **settings), plain)
    # one beam of the search is checked against whole passes by the tests above


@pytest.mark.parametrize("rule", RULES)
def test_a_draft_model_changes_nothing(loaded_text, tiny_text, rule):
    model = loaded_text("llama").model
    draft = AutoModelForCausalLM.from_pretrained(tiny_text("mistral"), dtype=torch.float32).eval()
    expected = by_hand(model, rule, IDS, IDS.shape[1])
    assert torch.equal(generate(model, rule, assistant_model=draft), expected)
    assert torch.equal(generate(model, rule, assistant_early_exit=2), expected), "a draft of its own"


@pytest.mark.parametrize("rule", RULES)
def test_a_prompt_of_embeddings_is_a_prompt(loaded_text, rule):
    model = loaded_text("llama").model
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(IDS)
    with steered(model, vectors_for(model), SteeringConfig(strength=1.0, positions=rule)):
        answer = model.generate(inputs_embeds=embeddings, max_new_tokens=NEW, do_sample=False, eos_token_id=None)
    assert torch.equal(answer, by_hand(model, rule, IDS, IDS.shape[1])[:, IDS.shape[1] :])


@pytest.mark.parametrize("rule", RULES)
def test_a_prompt_whose_beginning_is_in_a_cache(loaded_text, rule):
    model = loaded_text("llama").model
    expected = by_hand(model, rule, IDS, IDS.shape[1])
    # what the first pass is given is the prompt, so that its last token would be one more to move
    for lengths in (torch.tensor([IDS.shape[1]]), *([None] if rule != "last" else [])):
        cache, config = DynamicCache(), SteeringConfig(strength=1.0, positions=rule)
        with torch.no_grad(), steered(model, vectors_for(model), config, prompt_lengths=lengths):
            model(IDS[:, :4], past_key_values=cache)
        assert torch.equal(generate(model, rule, lengths=lengths, past_key_values=cache), expected)


@pytest.mark.parametrize("family", ["llama", "mamba", "rwkv", "jamba"])
@pytest.mark.parametrize("rule", RULES)
def test_prompt_lengths_count_within_what_generate_is_given(loaded_text, family, rule):
    model, lengths = loaded_text(family).model, torch.tensor([4])
    expected = by_hand(model, rule, IDS, 4)
    for settings in ({}, {"use_cache": False}):
        assert torch.equal(generate(model, rule, lengths=lengths, **settings), expected)


@pytest.mark.parametrize("family", ["bart", "t5"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("settings", [{}, {"use_cache": False}], ids=str)
def test_the_prompt_of_a_decoder_is_what_it_starts_with(loaded_text, family, rule, settings):
    model = loaded_text(family).model
    start = torch.tensor([[model.config.decoder_start_token_id]])
    given = torch.tensor([[300, 310]])
    quiet = {"forced_eos_token_id": None, "forced_bos_token_id": None, **settings}
    expected = by_hand(model, rule, start, 1, input_ids=IDS, attention_mask=torch.ones_like(IDS))
    assert torch.equal(generate(model, rule, **quiet), expected)
    longer = torch.cat([start, given], dim=1)
    expected = by_hand(model, rule, longer, 3, input_ids=IDS, attention_mask=torch.ones_like(IDS))
    for decoder in (given, longer):  # with and without the start token
        assert torch.equal(generate(model, rule, decoder_input_ids=decoder, **quiet), expected)


@pytest.fixture(scope="module")
def adapted(tiny_text):
    """A LoRA adapter that moves the answer, on a model of its own."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_text("llama"), dtype=torch.float32)
    return get_peft_model(base, LoraConfig(init_lora_weights=False, target_modules=["q_proj", "v_proj"])).eval()


@pytest.mark.parametrize("rule", RULES)
def test_an_adapted_model_is_steered_at_its_decoder(adapted, rule):
    expected = by_hand(adapted, rule, IDS, IDS.shape[1])
    for settings in ({}, {"use_cache": False}):
        assert torch.equal(generate(adapted, rule, input_ids=IDS, **settings), expected)
    assert torch.equal(generate(adapted.get_base_model(), rule), expected), "the model inside"


def test_forward_passes_of_an_adapted_model(adapted):
    ids, real = torch.cat([IDS, IDS]), torch.ones(2, 7, dtype=torch.long)
    real[0, :2] = 0
    lengths = torch.tensor([3, 4])
    assert moved(adapted, "prompt", lengths, ids, attention_mask=real) == [[0, 1, 2, 3, 4], [0, 1, 2, 3]]
    assert moved(adapted, "last", lengths, ids, attention_mask=real) == [[4], [3]]


def test_virtual_tokens_are_refused(tiny_text):
    base = AutoModelForCausalLM.from_pretrained(tiny_text("llama"), dtype=torch.float32)
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    with pytest.raises(GrainsError, match="virtual tokens of PROMPT_TUNING are neither prompt nor answer"):
        generate(model, "prompt", input_ids=IDS)
    generate(model, "all", input_ids=IDS)


def moved(model, rule, lengths, ids=IDS, **inputs):
    """Columns whose logits change where the last layer is steered: a token moves only itself there."""
    depth = len(find_layers(model))
    vectors = SteeringVectors({depth - 1: torch.ones(hidden_size(model)).cumsum(0)}, {depth - 1: 5.0})
    with torch.no_grad():
        plain = model(ids, **inputs).logits
        with steered(model, vectors, SteeringConfig(strength=1.0, positions=rule), prompt_lengths=lengths):
            return [row.nonzero().flatten().tolist() for row in (model(ids, **inputs).logits != plain).any(dim=-1)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompt_lengths_count_real_tokens(loaded_text, side):
    model = loaded_text("llama").model
    pad, none = torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long)
    order = (lambda a, b: [a, b]) if side == "left" else (lambda a, b: [b, a])
    short = torch.cat(order(pad, IDS), dim=1)
    real = torch.cat([torch.cat(order(none, torch.ones_like(IDS)), dim=1), torch.ones(1, 10, dtype=torch.long)])
    both = torch.cat([short, torch.cat([IDS, IDS[:, :3]], dim=1)])
    at = 3 if side == "left" else 0

    def of_real(rule):
        found = moved(model, rule, torch.tensor([4, 6]), both, attention_mask=real)
        return [[column - at for column in found[0] if real[0, column]], found[1]]

    assert of_real("prompt") == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert of_real("last") == [[3], [5]]
    assert of_real("generated") == [[4, 5, 6], [6, 7, 8, 9]]


def test_arguments_by_place_and_one_length_for_all(loaded_text):
    model = loaded_text("llama").model
    ids, real = torch.cat([IDS, IDS]), torch.ones(2, 7, dtype=torch.long)
    real[0, 5:] = 0
    vectors = vectors_for(model)
    settings = SteeringConfig(strength=1.0, positions="last")
    with torch.no_grad(), steered(model, vectors, settings):
        assert torch.equal(model(ids, real).logits, model(ids, attention_mask=real).logits)
        assert not torch.equal(model(ids).logits, model(ids, real).logits)
    assert moved(model, "prompt", torch.tensor([3]), ids) == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("cache", [DynamicCache, None])
@pytest.mark.parametrize("rule", ["prompt", "generated", "last"])
def test_passes_of_a_loop_by_hand(loaded_text, cache, rule):
    """Chunks of one prompt, then single tokens: with prompt lengths each token has its place."""
    model = loaded_text("llama").model
    cache = StaticCache(model.config, max_cache_len=32) if cache is None else cache()
    logits, place = [], 0
    with (
        torch.no_grad(),
        steered(model, vectors_for(model), SteeringConfig(strength=1.0, positions=rule), torch.tensor([5])),
    ):
        whole = model(IDS, use_cache=False).logits
        for width in (3, 2, 1, 1):
            place += width
            part = IDS[:, place - width : place]
            logits.append(model(part, past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_placed_is_refused_in_one_line(loaded_text):
    llama, mamba = loaded_text("llama").model, loaded_text("mamba").model
    four = torch.ones(1, 1, 7, 7, dtype=torch.bool).tril()
    packed = torch.tensor([0, 3, 7], dtype=torch.int32)
    with torch.no_grad():
        state = mamba(IDS, use_cache=True).cache_params

    def of(model, rule="last", lengths=None):
        return steered(model, vectors_for(model), SteeringConfig(strength=1.0, positions=rule), prompt_lengths=lengths)

    def refused(context, call, says):
        with torch.no_grad(), pytest.raises(GrainsError, match=says) as caught, context:
            call()
        assert "\n" not in str(caught.value)

    refused(of(llama), lambda: llama(IDS, attention_mask=four), "the attention mask has shape")
    refused(of(llama), lambda: llama(IDS, cu_seq_lens_q=packed), "packed into one row")
    refused(of(llama), lambda: llama.model(IDS), "a layer ran outside the model's own forward")
    refused(of(mamba), lambda: mamba(IDS, cache_params=state), "DynamicCache does not tell how many tokens it holds")
    refused(of(llama, lengths=torch.ones(2, dtype=torch.long)), lambda: llama(IDS), "has 2 rows for a batch of 1")
    refused(of(llama, lengths=torch.ones(1, 1)), lambda: llama(IDS), "one whole number of tokens per row")
    own = dict(custom_generate=lambda model, input_ids, **_: model(input_ids).logits.argmax(-1))
    refused(of(llama), lambda: generate(llama, "all", **own), "does not say which tokens it runs")


def test_the_model_is_as_it_was_afterwards(loaded_text):
    model = loaded_text("llama").model
    before = set(model.__dict__)
    settings = SteeringConfig(strength=1.0, positions="last")
    with (
        pytest.raises(ZeroDivisionError),
        steered(model, vectors_for(model), settings),
        steered(model, vectors_for(model), settings),
    ):
        assert "generate" in model.__dict__
        _ = 1 / 0
    assert set(model.__dict__) == before
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
