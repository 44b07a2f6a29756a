"""Which tokens are masked."""

from __future__ import annotations

from dataclasses import replace

import torch

from grains_eval.attribution.selections import is_shared, select, shared_tokens
from grains_eval.recipes import AttributionConfig
from grains_eval.types import Attribution, TokenSelection
from tests.reference.linear import encoded, linear_model


def attribution(scores, is_image=None, is_candidate=None):
    n = len(scores)
    return Attribution(
        "e", tuple("t" * n), torch.tensor(scores),
        torch.zeros(n, dtype=torch.bool) if is_image is None else torch.tensor(is_image),
        torch.ones(n, dtype=torch.bool) if is_candidate is None else torch.tensor(is_candidate),
        1.0, 0.0, 0.0, 20,
    )  # fmt: skip


def no_deltas(index, positions):
    raise AssertionError("top-k needs no deltas")


def no_transfer(candidates):
    raise AssertionError("nothing is shown to other examples")


def one(scores, k, ids=None, **kwargs):
    config = AttributionConfig(top_k=k, **kwargs.pop("config", {}))
    example = encoded(linear_model(), ids or list(range(1, len(scores) + 1)), 5, 6)
    example = replace(example, is_image=torch.tensor(kwargs.get("is_image", [False] * len(scores))))
    return select([attribution(scores, **kwargs)], [example], config, no_deltas, no_transfer)[0]


def test_top_k_by_sign_largest_first():
    assert one([0.1, -2.0, 3.0, -0.5, 2.0], 2) == TokenSelection((2, 4), (1, 3))


def test_a_token_of_the_wrong_sign_is_never_selected():
    assert one([0.0, 0.3, 0.0, -0.1], 3) == TokenSelection((1,), (3,))
    assert one([0.5, 0.3, 0.2, 0.1], 2) == TokenSelection((0, 1), ())


def test_special_and_template_tokens_are_no_candidates():
    assert one([9.0, 0.3, -9.0, -0.1], 1, is_candidate=[False, True, False, True]) == TokenSelection((1,), (3,))


def test_modalities():
    scores, visual = [3.0, 2.0, -3.0, -2.0], [True, False, True, False]
    assert one(scores, 2, is_image=visual) == TokenSelection((0, 1), (2, 3))
    assert one(scores, 2, is_image=visual, config={"modality": "image"}) == TokenSelection((0,), (2,))
    assert one(scores, 2, is_image=visual, config={"modality": "text"}) == TokenSelection((1,), (3,))


def test_words_that_most_prompts_share_are_no_candidates_but_image_tokens_are():
    loaded = linear_model()
    examples = [encoded(loaded, [1, 2, 3 + index % 5], 5, 6) for index in range(10)]
    assert shared_tokens(examples, 0.4) == {1, 2}
    assert shared_tokens(examples[:3], 0.4) == frozenset(), "three examples say nothing about frequency"
    scores = [attribution([0.0, 5.0, 1.0]) for _ in examples]
    selections = select(scores, examples, AttributionConfig(top_k=1), no_deltas, no_transfer)
    assert all(selection == TokenSelection((2,), ()) for selection in selections)
    visual = [replace(example, is_image=torch.tensor([False, True, False])) for example in examples]
    images = [replace(score, is_image=torch.tensor([False, True, False])) for score in scores]
    selections = select(images, visual, AttributionConfig(top_k=1), no_deltas, no_transfer)
    assert all(selection == TokenSelection((1,), ()) for selection in selections)


def test_an_images_placeholder_is_no_shared_word_though_text_holds_its_id():
    example = replace(encoded(linear_model(), [1, 2, 3], 5, 6), is_image=torch.tensor([False, True, False]))
    assert is_shared(example, frozenset({2, 3})).tolist() == [False, False, True]


def test_agreement_prefers_the_token_whose_delta_recurs():
    loaded = linear_model()
    generator = torch.Generator().manual_seed(0)
    examples = [encoded(loaded, [1, 2, 3], 5, 6, str(index)) for index in range(30)]
    examples = [replace(e, input_ids=torch.tensor([1, 100 + i, 200 + i])) for i, e in enumerate(examples)]
    # position 1 scores highest but its delta is random; position 2 has the same delta in every example
    deltas = [torch.randn(3, 2, 16, generator=generator) for _ in examples]
    for delta in deltas:
        delta[2] = torch.ones(2, 16)
    scores = [attribution([0.0, 5.0, 1.0]) for _ in examples]
    config = AttributionConfig(top_k=1, candidates=2, selection="agreement")
    found = select(scores, examples, config, lambda index, positions: deltas[index][list(positions)], no_transfer)
    assert all(selection.positive == (2,) for selection in found)
    plain = select(scores, examples, AttributionConfig(top_k=1), no_deltas, no_transfer)
    assert all(selection.positive == (1,) for selection in plain)
