"""The LoRA baseline learns the preference, leaves the model as it was, and comes back from disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from grains_eval.artifacts.load import open_artifact
from grains_eval.errors import GrainsError
from grains_eval.examples import Examples
from grains_eval.harness.model import GrainsHF
from grains_eval.models import LoadedModel, encode
from grains_eval.models.forward import response_logprobs
from grains_eval.models.layers import find_layers
from grains_eval.types import PreferenceExample
from grains_eval.vectors import lora as adapters
from tests import tiny
from tests.instances import instance
from tests.study.studies import build
from tests.vectors.contexts import EXAMPLES, recipe

OPTIONS = adapters.Options(epochs=3, batch_size=3, learning_rate=1e-2)


def margins(loaded: LoadedModel) -> Tensor:
    with torch.no_grad():
        pairs = [response_logprobs(loaded.model, e, e.embeddings[None])[0] for e in encoded(loaded)]
    return torch.stack([pair[0] - pair[1] for pair in pairs])


def encoded(loaded: LoadedModel) -> list:
    return [encode(loaded, one) for one in EXAMPLES]


def bits(loaded: LoadedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in loaded.model.state_dict().items()}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "gemma3_text", "qwen3_moe"])
def test_the_loss_falls_and_the_model_stays_as_it_was(loaded_text: Callable[[str], LoadedModel], family: str) -> None:
    loaded = loaded_text(family)
    before, was = bits(loaded), margins(loaded)
    trainable = {name: p.requires_grad for name, p in loaded.model.named_parameters()}
    seen: list[Tensor] = []
    trained = adapters.train(loaded, encoded(loaded), OPTIONS, 0, lambda epoch: seen.append(margins(loaded)))
    assert trained.losses[0] <= math.log(2) + 0.1
    assert trained.losses[-1] < trained.losses[0]
    torch.testing.assert_close(seen[0], was, atol=1e-4, rtol=1e-4)  # an untrained adapter does nothing
    assert (seen[-1] - was).mean() > 0.5
    after = bits(loaded)
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(margins(loaded), was)
    assert {name: p.requires_grad for name, p in loaded.model.named_parameters()} == trainable
    assert not hasattr(loaded.model, "peft_config")


def test_the_first_loss_is_log_two_and_dpo_is_worked_out(loaded_text: Callable[[str], LoadedModel]) -> None:
    one_step = adapters.Options(epochs=1, batch_size=len(EXAMPLES))
    loaded = loaded_text("llama")
    assert adapters.train(loaded, encoded(loaded), one_step, 0).losses[0] == pytest.approx(math.log(2), abs=1e-4)
    loss = adapters.preference_loss(torch.tensor([3.0]), torch.tensor([1.0]), 0.5)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1.0)))


def test_the_same_seed_gives_the_same_adapter_and_another_another(
    loaded_text: Callable[[str], LoadedModel],
) -> None:
    loaded = loaded_text("llama")
    one, same, other = (adapters.train(loaded, encoded(loaded), OPTIONS, seed) for seed in (0, 0, 1))
    assert one.losses == same.losses
    for left, right in zip(one.checkpoints, same.checkpoints, strict=True):
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert any(
        not torch.equal(one.checkpoints[-1][name], other.checkpoints[-1][name]) for name in other.checkpoints[-1]
    )


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", {"q_proj", "v_proj"}),
        ("gpt2", {"c_attn"}),
        ("gpt_neox", {"query_key_value"}),
        ("opt", {"q_proj", "v_proj"}),
    ],
)
def test_query_and_value_projections_are_found(
    loaded_text: Callable[[str], LoadedModel], family: str, expected: set[str]
) -> None:
    model = loaded_text(family).model
    found = adapters.find_targets(model)
    assert {name.rsplit(".", 1)[-1] for name in found} == expected
    assert len(found) == len(expected) * len(find_layers(model))


def test_only_the_text_decoder_of_a_vision_model_is_adapted(
    loaded_vision: Callable[[str], LoadedModel],
) -> None:
    loaded = loaded_vision("llava")
    names = adapters.find_targets(loaded.model)
    assert names and not any("vision" in name for name in names)
    example = PreferenceExample("v", "v", "<image> What is this", " a cat", " a dog", (tiny.picture(),))
    with torch.no_grad():
        pair = encode(loaded, example)
        was = response_logprobs(loaded.model, pair, pair.embeddings[None])[0]
    trained = adapters.train(loaded, [pair], OPTIONS, 0)
    assert trained.losses[-1] < trained.losses[0] == pytest.approx(math.log(2), abs=1e-4)
    with torch.no_grad():
        assert torch.equal(response_logprobs(loaded.model, pair, pair.embeddings[None])[0], was)


def test_the_model_is_restored_when_training_fails(loaded_text: Callable[[str], LoadedModel]) -> None:
    loaded = loaded_text("llama")
    before = bits(loaded)

    def fail(epoch: int) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapters.train(loaded, encoded(loaded), OPTIONS, 0, fail)
    assert list(bits(loaded)) == list(before)
    assert not hasattr(loaded.model, "peft_config")


def test_names_that_are_not_there_are_refused(loaded_text: Callable[[str], LoadedModel]) -> None:
    with pytest.raises(GrainsError, match=r"no projection is called nowhere.*target_modules to some of.*q_proj"):
        adapters.find_targets(loaded_text("llama").model, ["nowhere"])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_adapter_comes_back_from_its_artifact(
    loaded_text: Callable[[str], LoadedModel], tiny_text: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    loaded = loaded_text(family)
    options = {"epochs": 2, "batch_size": 3, "learning_rate": 1e-2}
    made = recipe("lora", **options)
    examples = Examples(tuple(EXAMPLES), ())
    arguments = {"pretrained": str(tiny_text(family)), "dtype": "float32", "device": "cpu"}
    folder = build(made, arguments, tmp_path / "lora", loaded=loaded, examples=examples)
    held = open_artifact(folder)
    assert held.adapter is not None and held.vectors is None and held.method == "lora"
    assert {path.name for path in held.adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert held.provenance["doc_hashes"]["build"] and held.provenance["training"]["epoch"] == 2
    assert "no development examples" in held.provenance["chosen_by"]

    seen: list[Tensor] = []
    adapters.train(loaded, encoded(loaded), adapters.Options(**options), 0, lambda epoch: seen.append(margins(loaded)))
    lm = GrainsHF.create_from_arg_obj({**arguments, "vectors": str(folder)})
    requests = [
        instance("loglikelihood", {"n": i}, (one.prompt, answer), number=i)
        for i, one in enumerate(EXAMPLES)
        for answer in (one.chosen, one.rejected)
    ]
    found = torch.tensor([score for score, _ in lm.loglikelihood(requests, disable_tqdm=True)])
    torch.testing.assert_close(found[0::2] - found[1::2], seen[-1], atol=1e-3, rtol=1e-3)
    assert (found[0::2] - found[1::2] - margins(loaded)).abs().max() > 0.1
