"""What builds compute is what the model scores on the user's own examples, or it is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import transformers as hf
from lm_eval.models.huggingface import HFLM

from grains_eval.attribution import attribute
from grains_eval.errors import GrainsError
from grains_eval.models import LoadedModel, embedding_check, encode, encode_all
from grains_eval.models.activations import response_states
from grains_eval.models.forward import response_logprobs
from grains_eval.models.layers import find_layers
from grains_eval.recipes import AttributionConfig
from grains_eval.types import PreferenceExample
from grains_eval.vectors import build
from tests import tiny
from tests.vectors.contexts import recipe

QUICK = AttributionConfig(steps=2, max_steps=2)
SWITCH = 40  # tokens at which the rope of these tests changes
HALF = tiny.LLAMA["hidden_size"] // tiny.LLAMA["num_attention_heads"] // 2
SWITCHING: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * HALF,
        "long_factor": [2.0 + i for i in range(HALF)],
        "original_max_position_embeddings": SWITCH,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
}


def made(model: hf.PreTrainedModel) -> LoadedModel:
    tiny.fill(model)
    lm = HFLM(pretrained=model.eval(), tokenizer=tiny.tokenizer(bos=True), device="cpu", max_length=256)
    return LoadedModel.of(lm)


def switching(kind: str) -> LoadedModel:
    if kind == "longrope":
        config = hf.Phi3Config(
            **{**tiny.LLAMA, "max_position_embeddings": 8 * SWITCH},
            original_max_position_embeddings=SWITCH,
            rope_parameters=SWITCHING[kind],
        )
        return made(hf.Phi3ForCausalLM(config))
    config = hf.LlamaConfig(**{**tiny.LLAMA, "max_position_embeddings": SWITCH}, rope_parameters=SWITCHING[kind])
    return made(hf.LlamaForCausalLM(config))


def minimax() -> LoadedModel:
    """Its first layer is linear, so that its cache does not know how long the prompt was."""
    config = hf.MiniMaxConfig(
        **{**tiny.MOE, "num_hidden_layers": 4},
        head_dim=8,
        num_local_experts=4,
        block_size=8,
        layer_types=["linear_attention", "full_attention"] * 2,
    )
    return made(hf.MiniMaxForCausalLM(config))


def gemma3n() -> LoadedModel:
    config = hf.Gemma3nTextConfig(
        **{**tiny.LLAMA, "num_hidden_layers": 4, "intermediate_size": [64] * 4},
        head_dim=8,
        vocab_size_per_layer_input=tiny.VOCABULARY,
        hidden_size_per_layer_input=16,
        layer_types=["sliding_attention", "full_attention"] * 2,
        sliding_window=8,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0] * 4,
        laurel_rank=8,
    )
    loaded = made(hf.Gemma3nForCausalLM(config))
    for name, parameter in loaded.model.named_parameters():
        if name.endswith("correct_output_scale"):  # zero as initialised, which silences the embeddings of each layer
            torch.nn.init.ones_(parameter)
    return loaded


def pair(words: int, chosen: str = " paris no yes" * 4, rejected: str = " rome yes") -> PreferenceExample:
    """An example whose prompt has about so many tokens."""
    return PreferenceExample(f"of {words}", f"h{words}", " ".join(["Question", *["what"] * words]), chosen, rejected)


@torch.no_grad()
def scores_by_hand(loaded: LoadedModel, example: PreferenceExample) -> list[float]:
    """`log p(y+)` and `log p(y-)` as the harness computes them."""
    prompt, scores = loaded.lm.tok_encode(example.prompt), []
    for response in (example.chosen, example.rejected):
        ids = loaded.lm.tok_encode(example.prompt + response)
        fresh(loaded.model)
        request = (("", ""), prompt, ids[len(prompt) :])
        scores.append(loaded.lm._loglikelihood_tokens([request], disable_tqdm=True)[0][0])
    return scores


@torch.no_grad()
def states_by_hand(loaded: LoadedModel, example: PreferenceExample) -> torch.Tensor:
    """`[2, L, H]` layer outputs at the end of either response, from token ids and without cache."""
    states = []
    for response in (example.chosen, example.rejected):
        kept: list[torch.Tensor] = []

        def keep(module: Any, arguments: Any, output: Any, kept: list[torch.Tensor] = kept) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)

        hooks = [layer.register_forward_hook(keep) for layer in find_layers(loaded.model)]
        fresh(loaded.model)
        loaded.model(torch.tensor([loaded.lm.tok_encode(example.prompt + response)]), use_cache=False)
        for hook in hooks:
            hook.remove()
        states.append(torch.stack([state[0, -1] for state in kept]))
    return torch.stack(states)


def fresh(model: hf.PreTrainedModel) -> None:
    """As a model that has just been loaded: `dynamic` ropes remember the longest row."""
    rotary = getattr(model.model, "rotary_emb", None)
    if getattr(rotary, "rope_type", "") == "dynamic":
        rotary.inv_freq, rotary.max_seq_len_cached = rotary.original_inv_freq, rotary.original_max_seq_len


def assert_as_by_hand(loaded: LoadedModel, example: PreferenceExample, encoded: Any) -> None:
    scores, states = scores_by_hand(loaded, example), states_by_hand(loaded, example)
    rows = encoded.embeddings[None]
    with torch.no_grad():
        assert response_logprobs(loaded.model, encoded, rows)[0].tolist() == pytest.approx(scores, abs=2e-5)
    for state, response in zip(states, (encoded.chosen, encoded.rejected), strict=True):
        torch.testing.assert_close(
            response_states(loaded.model, encoded, rows, response)[0], state, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("kind", SWITCHING)
def test_a_build_goes_unshared_where_a_response_crosses_the_switch_of_the_rope(kind, caplog):
    loaded = switching(kind)
    examples = [pair(8), pair(9), pair(10), pair(SWITCH - 4), pair(SWITCH - 4), pair(60)]
    crossing = encode(loaded, examples[3])
    assert len(crossing.input_ids) < SWITCH < len(crossing.input_ids) + len(crossing.chosen)
    scores = scores_by_hand(loaded, examples[3])
    with torch.no_grad():
        shared = response_logprobs(loaded.model, crossing, crossing.embeddings[None])[0].tolist()
    assert abs(shared[0] - scores[0]) > 0.05, "there is nothing to find"
    with caplog.at_level(logging.WARNING):
        encoded = encode_all(loaded, examples)
        encode_all(loaded, examples)
    assert not any(example.share_prefix for example in encoded)
    (warning,) = [record.getMessage() for record in caplog.records if record.name == embedding_check.__name__]
    assert f"of {SWITCH - 4}" in warning and "not once for both" in warning
    for given, example in zip(examples, encoded, strict=True):
        assert_as_by_hand(loaded, given, example)


def test_a_prompt_is_shared_where_no_example_crosses_the_switch():
    loaded = switching("longrope")
    assert all(example.share_prefix for example in encode_all(loaded, [pair(8), pair(60)]))


def test_states_of_minimax_go_on_from_the_prompt(caplog):
    loaded = minimax()
    examples = [pair(8), pair(20)]
    for given, example in zip(examples, encode_all(loaded, examples), strict=True):
        assert_as_by_hand(loaded, given, example)
    with caplog.at_level(logging.WARNING):
        vectors = build(loaded, examples, recipe("caa"))
    expected = torch.stack([states_by_hand(loaded, one) for one in examples])
    for layer, direction in vectors.directions.items():
        torch.testing.assert_close(direction, (expected[:, 0] - expected[:, 1]).mean(0)[layer], atol=1e-4, rtol=1e-3)


def test_embeddings_of_each_layer_are_not_dropped_in_silence():
    """Gemma 3n adds embeddings that its layers look up by token: from embeddings alone it computes something else."""
    loaded = gemma3n()
    encoded = encode(loaded, pair(8))
    with torch.no_grad():
        off = response_logprobs(loaded.model, encoded, encoded.embeddings[None])[0].tolist()
    scores = scores_by_hand(loaded, pair(8))
    assert abs(off[0] - scores[0]) > 0.05
    for run in (
        lambda: attribute(loaded, pair(8), QUICK),
        lambda: build(loaded, [pair(8)], recipe("grains")),
        lambda: build(loaded, [pair(8)], recipe("caa")),
    ):
        with pytest.raises(GrainsError, match=r"Gemma3nForCausalLM \(model type 'gemma3n_text'\)"):
            run()
    with pytest.raises(GrainsError, match=rf"log p\(y[+-]\) is {off[0]:.4f}|log p\(y[+-]\) is {off[1]:.4f}"):
        attribute(loaded, pair(8), QUICK)
