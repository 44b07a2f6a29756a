"""ITI and NL-ITI: planted heads are found, directions are known, the site is before the output projection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from grains_eval.artifacts.layout import fingerprint
from grains_eval.artifacts.load import load_vectors
from grains_eval.artifacts.save import save_vectors
from grains_eval.errors import GrainsError
from grains_eval.models import LoadedModel
from grains_eval.models.layers import find_attention_outputs, text_config
from grains_eval.steering import check_width, steered
from grains_eval.types import SteeringConfig, SteeringVectors
from grains_eval.vectors import iti, run_method
from grains_eval.vectors.response_states import ResponseStates, read_responses
from tests.vectors.contexts import EXAMPLES, context, states_by_hand

FAMILIES = ["llama", "qwen2", "gpt2", "gemma3_text", "mistral", "gpt_neox", "opt", "qwen3_moe"]
HEADS, WIDTH, EXAMPLE_COUNT = 4, 6, 40


def planted(kind: str) -> tuple[ResponseStates, torch.Tensor]:
    """Noise in two layers of four heads, but head 2 of layer 1 tells the responses apart."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.randn(2, EXAMPLE_COUNT, 2, HEADS, WIDTH, generator=generator)
    direction = torch.nn.functional.normalize(torch.arange(1.0, WIDTH + 1), dim=0)
    if kind == "shifted":
        sides[0, :, 1, 2] += 3 * direction
    else:  # a ring around the other: no plane parts them
        sides[0, :, 1, 2] = 6 * torch.nn.functional.normalize(sides[0, :, 1, 2], dim=-1)
        sides[0, :, 1, 2] += 0.5 * direction
    flat = sides.flatten(-2)
    return ResponseStates(flat[0], flat[1], {0: 1.0, 1: 1.0}), direction


def linear() -> object:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


def neural() -> object:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((16,), solver="lbfgs", max_iter=200, random_state=0)


def scores(states: ResponseStates, probe: Callable[[], object]) -> list[iti.HeadScore]:
    found = [score for layer in (0, 1) for score in iti.score_heads(states, layer, HEADS, probe, 5, 0)]
    return sorted(found, key=lambda score: -score.accuracy)


def test_a_planted_head_is_found_and_noise_is_not() -> None:
    first, *others = scores(planted("shifted")[0], linear)
    assert (first.layer, first.head) == (1, 2)
    assert first.accuracy > 0.85 and first.separation > 1
    # 80 held-out predictions at chance: 0.5 with a deviation of 0.056
    assert max(other.accuracy for other in others) < 0.75


def test_a_probe_with_a_hidden_layer_finds_what_no_plane_parts() -> None:
    states, _ = planted("ring")
    by_plane = {(s.layer, s.head): s.accuracy for s in scores(states, linear)}
    first = scores(states, neural)[0]
    assert (first.layer, first.head) == (1, 2) and first.accuracy > 0.8
    assert by_plane[1, 2] < first.accuracy - 0.1


def test_the_shift_is_the_mean_difference_times_the_deviation_along_it() -> None:
    states, direction = planted("shifted")
    shift = iti.shift(states, 1, HEADS, [2]).reshape(HEADS, WIDTH)
    assert not shift[[0, 1, 3]].any()
    preferred, rejected = (side[:, 1].reshape(-1, HEADS, WIDTH)[:, 2] for side in (states.chosen, states.rejected))
    theta = torch.nn.functional.normalize(preferred.mean(0) - rejected.mean(0), dim=0)
    sigma = np.std((torch.cat([preferred, rejected]) @ theta).numpy())
    torch.testing.assert_close(shift[2], float(sigma) * theta, atol=1e-5, rtol=1e-4)
    assert float(theta @ direction) > 0.95


def test_the_most_accurate_heads_are_taken_and_separation_decides_between_equals() -> None:
    accuracies = [0.5, 0.9, 0.8, 0.8]
    found = [iti.HeadScore(0, head, accuracy, float(head)) for head, accuracy in enumerate(accuracies)]
    assert [score.head for score in iti.best_heads(found, 3)] == [1, 3, 2]


def test_both_responses_of_an_example_are_held_out_together() -> None:
    # the same output after either response: a probe is right about exactly one of the two, if it saw neither
    same = torch.randn(EXAMPLE_COUNT, 1, HEADS * WIDTH, generator=torch.Generator().manual_seed(0))
    for score in iti.score_heads(ResponseStates(same, same, {0: 1.0}), 0, HEADS, linear, 5, 0):
        assert score.accuracy == 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_states_before_the_projection_are_read_and_steered_in_every_family(
    loaded_text: Callable[[str], LoadedModel], family: str
) -> None:
    loaded = loaded_text(family)
    states = read_responses(context(loaded, "iti"), "attention_heads")
    one = EXAMPLES[1]
    torch.testing.assert_close(
        states.chosen[1],
        states_by_hand(loaded, f"{one.prompt}{one.chosen}", "attention_heads"),
        atol=1e-4,
        rtol=1e-4,
    )
    vectors = run_method(context(loaded, "iti", heads=3, folds=3)).vectors
    check_width(loaded.model, vectors)
    heads = text_config(loaded.model).num_attention_heads
    moved = [
        (layer, h)
        for layer, v in vectors.directions.items()
        for h, part in enumerate(v.reshape(heads, -1))
        if part.any()
    ]
    assert len(moved) == 3 and sum(s["heads"] for s in vectors.statistics.values()) == 3
    ids = torch.tensor([loaded.lm.tok_encode("What is the capital of france")])
    with torch.no_grad():
        plain = loaded.model(ids).logits
        with steered(loaded.model, vectors, SteeringConfig(None, 0.0, "absolute", "add")):
            assert torch.equal(loaded.model(ids).logits, plain)
        with steered(loaded.model, vectors, SteeringConfig(None, 15.0, "absolute", "add")):
            assert not torch.allclose(loaded.model(ids).logits, plain, atol=1e-3)
        assert torch.equal(loaded.model(ids).logits, plain)


def test_steering_adds_the_shift_to_the_projections_input(loaded_text: Callable[[str], LoadedModel]) -> None:
    loaded = loaded_text("gemma3_text")
    vectors = run_method(context(loaded, "iti", heads=4, folds=3)).vectors
    layer = vectors.layers[0]
    projection = find_attention_outputs(loaded.model)[layer]
    kept: list[torch.Tensor] = []
    ids = torch.tensor([loaded.lm.tok_encode("What is the capital of france")])
    with torch.no_grad():
        for strength in (0.0, 2.0):
            with steered(loaded.model, vectors, SteeringConfig((layer,), strength, "absolute", "add")):
                handle = projection.register_forward_pre_hook(lambda module, args: kept.append(args[0].clone()))
                loaded.model(ids)
                handle.remove()
    expected = (2.0 * vectors.directions[layer]).expand_as(kept[0][0])
    torch.testing.assert_close((kept[1] - kept[0])[0], expected, atol=1e-5, rtol=1e-4)


def test_nl_iti_averages_the_last_response_tokens(loaded_text: Callable[[str], LoadedModel]) -> None:
    loaded = loaded_text("llama")
    states = read_responses(context(loaded, "nl_iti"), "attention_heads", last_tokens=2)
    one = EXAMPLES[1]  # responses of two tokens
    assert len(loaded.lm.tok_encode(one.chosen, add_special_tokens=False)) == 2
    expected = states_by_hand(loaded, f"{one.prompt}{one.chosen}", "attention_heads", tokens=2)
    torch.testing.assert_close(states.chosen[1], expected, atol=1e-4, rtol=1e-4)
    built = [run_method(context(loaded, "nl_iti", heads=2, folds=3)).vectors for _ in range(2)]
    assert fingerprint(built[0]) == fingerprint(built[1])


def test_default_head_count_is_at_most_half(loaded_text: Callable[[str], LoadedModel]) -> None:
    vectors = run_method(context(loaded_text("llama"), "iti", folds=3)).vectors
    assert sum(s["heads"] for s in vectors.statistics.values()) == 3 * 4 // 2


def test_saved_and_loaded_vectors_give_the_same_logits(
    loaded_text: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    loaded = loaded_text("llama")
    built = run_method(context(loaded, "iti", heads=3, folds=3)).vectors
    read = load_vectors(save_vectors(built, tmp_path / "iti"))
    assert read.site == "attention_heads" and read.layers == built.layers
    ids = torch.tensor([loaded.lm.tok_encode("What is green")])
    setting = SteeringConfig(None, 15.0, "absolute", "add")
    with torch.no_grad():
        with steered(loaded.model, built, setting):
            one = loaded.model(ids).logits
        with steered(loaded.model, read, setting):
            assert torch.equal(loaded.model(ids).logits, one)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_vectors_of_another_width_are_refused(loaded_text: Callable[[str], LoadedModel], family: str) -> None:
    vectors = SteeringVectors({0: torch.ones(7)}, {0: 1.0}, "attention_heads")
    with pytest.raises(GrainsError, match="width 7 at layer 0 but the model needs 32"):
        check_width(loaded_text(family).model, vectors)


def test_too_few_examples_and_too_many_heads_are_said(loaded_text: Callable[[str], LoadedModel]) -> None:
    loaded = loaded_text("llama")
    with pytest.raises(GrainsError, match="7 folds but has 6 examples"):
        run_method(context(loaded, "iti", folds=7))
    with pytest.raises(GrainsError, match="heads is 99 but the model has 12"):
        run_method(context(loaded, "iti", heads=99, folds=3))
