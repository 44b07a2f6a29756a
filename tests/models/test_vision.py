"""Encoding pictures: what the decoder receives, where visual tokens look, what an absent picture is."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import pytest
import torch
from PIL import Image

from grains_eval.attribution import attribute
from grains_eval.attribution.baselines import prompt_baseline
from grains_eval.errors import GrainsError
from grains_eval.models import LoadedModel, encode, image_inputs
from grains_eval.models.forward import response_logprobs
from grains_eval.models.vision import pixel_masked
from grains_eval.recipes import AttributionConfig
from grains_eval.types import Message, PreferenceExample
from tests.models.examples import example
from tests.tiny import VISION, picture

FAMILIES = list(VISION)


def whole_forward(loaded: LoadedModel, text: str, response: str, images) -> float:
    """The response's log-probability by Hugging Face alone: one processor call, one forward pass."""
    flat = loaded.model.config.model_type == "llava"
    shown = list(images) if flat else [list(images)]
    context = loaded.processor(text=[text], images=shown, return_tensors="pt")["input_ids"].shape[1]
    inputs = loaded.processor(text=[text + response], images=shown, return_tensors="pt")
    ids = inputs["input_ids"][0]
    with torch.no_grad():
        logprobs = loaded.model(**inputs).logits[0].float().log_softmax(-1)
    return float(logprobs[context - 1 : -1].gather(-1, ids[context:, None]).sum())


def references(loaded: LoadedModel, given: PreferenceExample, images=None) -> torch.Tensor:
    images = given.images if images is None else images
    text = given.prompt.replace("<image>", image_inputs.placeholder(loaded.lm))
    return torch.tensor([whole_forward(loaded, text, response, images) for response in (given.chosen, given.rejected)])


def scores(loaded: LoadedModel, encoded, rows=None, **options) -> torch.Tensor:
    rows = encoded.embeddings[None] if rows is None else rows
    with torch.no_grad():
        return response_logprobs(loaded.model, encoded, rows, **options)


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_replay_from_captured_keywords_equals_the_whole_forward(family, images, loaded_vision):
    loaded = loaded_vision(family)
    given = example(images)
    encoded = encode(loaded, given)
    expected = references(loaded, given)
    both = scores(loaded, encoded, encoded.embeddings[None].expand(2, -1, -1))
    torch.testing.assert_close(both, expected.expand(2, 2), atol=1e-5, rtol=0)
    apart = scores(loaded, encoded, share_prefix=False)
    torch.testing.assert_close(apart, expected[None], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "kept"),
    [
        ("qwen2_5_vl", {"position_ids"}),
        ("qwen3_vl", {"position_ids", "visual_pos_masks", "deepstack_visual_embeds"}),
        ("gemma3", {"attention_mask"}),
        ("llava", set()),
        ("llava_next", set()),
        ("idefics3", set()),
        ("smolvlm", set()),
    ],
)
def test_every_captured_keyword_matters(family, kept, loaded_vision):
    loaded = loaded_vision(family)
    given = example(2)
    encoded = encode(loaded, given)
    assert set(encoded.decoder_keywords) == kept
    expected = references(loaded, given)[None]
    for name in kept:
        without = {key: value for key, value in encoded.decoder_keywords.items() if key != name}
        try:
            found = scores(loaded, replace(encoded, decoder_keywords=without))
        except (RuntimeError, KeyError, TypeError):
            continue
        assert (found - expected).abs().max() > 1e-3, name


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_responses_continue_after_the_largest_multimodal_position(family, loaded_vision):
    loaded = loaded_vision(family)
    encoded = encode(loaded, example())
    assert encoded.next_position < len(encoded.input_ids)
    naive = scores(loaded, replace(encoded, next_position=len(encoded.input_ids)))
    assert (naive - scores(loaded, encoded)).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_two_pictures_give_different_scores(family, loaded_vision):
    loaded = loaded_vision(family)
    one, other = (scores(loaded, encode(loaded, example(seed=seed))) for seed in (0, 7))
    assert (one - other).abs().min() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_masking_every_visual_token_shows_the_blank_picture(family, loaded_vision):
    loaded = loaded_vision(family)
    given = example(2)
    encoded = encode(loaded, given)
    rows = encoded.embeddings.clone()
    rows[encoded.is_image] = encoded.visual_baseline[encoded.is_image]
    colour = image_inputs.blank_colour(loaded.processor)
    blank = [image_inputs.blank(shown, colour) for shown in given.images]
    expected = references(loaded, given, blank)
    torch.testing.assert_close(scores(loaded, encoded, rows[None])[0], expected, atol=1e-5, rtol=0)
    assert (expected - references(loaded, given)).abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_sums_to_the_change_of_the_objective(family, loaded_vision):
    loaded = loaded_vision(family)
    config = AttributionConfig(steps=40, max_steps=640, tolerance=0.02, internal_batch_size=20)
    found = attribute(loaded, example(), config)
    change = found.value - found.baseline_value
    assert abs(change) > 1e-2
    assert abs(float(found.scores.sum()) - change) <= 0.02 * abs(change)
    assert found.scores[found.is_image].abs().sum() > 0


def test_deepstack_features_are_attributed_with_their_token(loaded_vision):
    loaded = loaded_vision("qwen3_vl")
    encoded = encode(loaded, example())
    hidden = loaded.model.config.text_config.hidden_size
    assert encoded.embeddings.shape[1] == 3 * hidden
    injected = encoded.embeddings[:, hidden:]
    assert (injected[~encoded.is_image] == 0).all()
    assert (injected[encoded.is_image] != 0).all()
    rows = encoded.embeddings.clone()
    rows[encoded.is_image, hidden:] = 0
    assert (scores(loaded, encoded, rows[None]) - scores(loaded, encoded)).abs().max() > 1e-2
    baseline = prompt_baseline(loaded.model, encoded, AttributionConfig())
    assert baseline.shape == encoded.embeddings.shape
    assert (baseline[~encoded.is_image, hidden:] == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_are_the_users_words_and_the_patches(family, loaded_vision):
    loaded = loaded_vision(family)
    messages = (Message("user", "<image>What is the picture?"),)
    encoded = encode(loaded, example(prompt=messages))
    chosen = encoded.is_candidate
    text = [token for index, token in enumerate(encoded.tokens) if chosen[index] and not encoded.is_image[index]]
    assert text == ["What", "Ġis", "Ġthe", "Ġpicture", "?"]
    assert (chosen & encoded.is_image).tolist() == [patch is not None for patch in encoded.patches]
    assert loaded.lm.chat_applied is False


@pytest.mark.parametrize("family", ["gemma3", "idefics3"])
def test_what_the_processor_writes_around_a_picture_is_no_candidate(family, loaded_vision):
    encoded = encode(loaded_vision(family), example(prompt="<image>What is it?"))
    written = [index for index, token in enumerate(encoded.tokens) if token == "Ċ"]
    assert written
    assert not encoded.is_candidate[written].any()


def test_pictures_come_first_where_the_prompt_says_nothing(loaded_vision):
    loaded = loaded_vision("qwen2_5_vl")
    silent = encode(loaded, example(2, prompt="What is it?"))
    told = encode(loaded, example(2, prompt="<image><image>What is it?"))
    assert silent.input_ids.tolist() == told.input_ids.tolist()
    assert {patch.image for patch in told.patches if patch is not None} == {0, 1}
    asked = encode(loaded, example(prompt=(Message("system", "Hello"), Message("user", "What?"))))
    placed = encode(loaded, example(prompt=(Message("system", "Hello"), Message("user", "<image>What?"))))
    assert asked.input_ids.tolist() == placed.input_ids.tolist()


def test_visual_baselines(loaded_vision):
    loaded = loaded_vision("gemma3")
    given = example()
    kinds = ("blank", "position_mean", "mean", "pad", "zero")
    rows = {kind: encode(loaded, given, kind).visual_baseline for kind in kinds}
    encoded = encode(loaded, given)
    seen = encoded.is_image
    assert rows["pad"] is None
    pad = prompt_baseline(loaded.model, encode(loaded, given, "pad"), AttributionConfig())
    assert torch.equal(pad[seen][0], pad[~seen][0])
    assert (rows["zero"] == 0).all()
    torch.testing.assert_close(rows["mean"][seen][0], encoded.embeddings[seen].mean(dim=0))
    torch.testing.assert_close(rows["mean"][seen][0], rows["mean"][seen][-1])
    uniform = replace(given, images=(Image.new("RGB", (80, 56), image_inputs.blank_colour(loaded.processor)),))
    torch.testing.assert_close(rows["blank"][seen], encode(loaded, uniform).embeddings[seen])
    plain = encode(loaded, replace(given, images=(Image.new("RGB", (80, 56), (200, 30, 30)),)), "position_mean")
    torch.testing.assert_close(plain.visual_baseline[seen], plain.embeddings[seen], atol=1e-5, rtol=1e-5)
    assert (rows["position_mean"][seen] - encoded.embeddings[seen]).abs().max() > 1e-2
    with pytest.raises(GrainsError, match="unknown visual baseline 'grey'"):
        encode(loaded, given, "grey")


def test_the_position_mean_holds_nothing_of_the_picture_as_it_is(loaded_vision, monkeypatch):
    loaded, given, shown = loaded_vision("gemma3"), example(), []
    real = image_inputs.process

    def watched(lm, texts, images, where):
        shown.append(images[0][0].tobytes())
        return real(lm, texts, images, where)

    monkeypatch.setattr(image_inputs, "process", watched)
    encoded = encode(loaded, given, "position_mean")
    itself, *others = dict.fromkeys(shown)
    assert itself == given.images[0].tobytes() and len(others) == 8
    seen = encoded.is_image
    alone = []
    for right, down in itertools.product(range(3), repeat=2):
        moved = replace(given, images=tuple(image_inputs.shifted(each, right, down) for each in given.images))
        alone.append(encode(loaded, moved, "pad").embeddings[seen])
    torch.testing.assert_close(alone[0], encoded.embeddings[seen])
    torch.testing.assert_close(encoded.visual_baseline[seen], torch.stack(alone[1:]).mean(dim=0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llava_next", "qwen3_vl", "idefics3"])
def test_greying_every_patch_gives_the_blank_picture(family, loaded_vision):
    loaded = loaded_vision(family)
    encoded = encode(loaded, example())
    every = [patch for patch in encoded.patches if patch is not None]
    masked = pixel_masked(loaded, encoded, every)
    torch.testing.assert_close(
        masked.embeddings[encoded.is_image], encoded.visual_baseline[encoded.is_image], atol=1e-5, rtol=1e-5
    )
    one = pixel_masked(loaded, encoded, every[:1])
    assert (one.embeddings != encoded.embeddings).any()
    assert torch.equal(one.embeddings[~encoded.is_image], encoded.embeddings[~encoded.is_image])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "gemma3", "llava"])
def test_text_prompts_are_exact_after_pictures_in_a_batch(family, loaded_vision):
    loaded = loaded_vision(family)
    shown = [[picture()], [picture(1)], [picture(2, (112, 30))]]
    prompts = [image_inputs.placeholder(loaded.lm) + " world" * count for count in (1, 2, 3)]
    with torch.no_grad():  # Qwen keeps three rows of position offsets from it
        loaded.model(**image_inputs.process(loaded.lm, prompts, shown, "batch"))
    text = PreferenceExample("t", "h", "What is the capital of", " france", " rome")
    found = scores(loaded, encode(loaded, text))[0]
    for response, score in ((" france", found[0]), (" rome", found[1])):
        ids = loaded.tokenizer(text.prompt + response, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logprobs = loaded.model(ids).logits[0].log_softmax(-1)
        assert score == pytest.approx(float(logprobs[-2, ids[0, -1]]), abs=1e-5)


def broken_picture() -> Image.Image:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    return Image.open(io.BytesIO(buffer.getvalue()[:400]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": (None,)}, "image 0 is missing"),
        ({"images": ("a.png",)}, "image 'a.png' cannot be read"),
        ({"prompt": "<image><image>What?"}, r"2 image placeholder\(s\)"),
        (
            {"prompt": "<image> What <image_soft_token>?"},
            "text holds the model's image token '<image_soft_token>'",
        ),
        ({"rejected": " "}, "the rejected response is empty"),
        (
            {"prompt": "<image> is the pict", "chosen": "ure"},
            "chosen response 'ure' does not extend the prompt",
        ),
        ({"prompt": "<image>" + " What" * 600}, "max_length"),
    ],
)
def test_bad_examples_are_one_clear_line(changes, message, loaded_vision):
    loaded = loaded_vision("gemma3")
    given = replace(example(), **changes)
    with pytest.raises(GrainsError, match=message) as caught:
        encode(loaded, given)
    assert "\n" not in str(caught.value)


def test_damaged_pictures_and_too_many_are_refused(loaded_vision, loaded_text):
    loaded = loaded_vision("llava")
    with pytest.raises(GrainsError, match="image 0 cannot be decoded"):
        encode(loaded, replace(example(), images=(broken_picture(),)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded.lm, "max_images", 1)
        with pytest.raises(GrainsError, match="2 images but the model takes max_images=1"):
            encode(loaded, example(2))
    with pytest.raises(GrainsError, match="takes none"):
        encode(loaded_text("llama"), example())
