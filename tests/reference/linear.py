"""A causal model that is linear in its input embeddings, so that every number can be worked out by hand.

Layer `l` outputs `h_l = M_l (x_1 + ... + x_t)` at position `t` (M_l the product of the first l + 1 matrices); the
logits are `U h_L`. Since log-softmax differences of one position lose their normaliser,
`F(x) = (u_{y+} - u_{y-}) . M_L (x_1 + ... + x_T)`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from grains_eval.models import EncodedExample, LoadedModel
from grains_eval.types import PreferenceExample


class LinearConfig(PreTrainedConfig):
    model_type = "grains_test_linear"

    def __init__(self, hidden_size: int = 3, vocab_size: int = 8, num_hidden_layers: int = 2, **kwargs: Any) -> None:
        self.hidden_size, self.vocab_size, self.num_hidden_layers = hidden_size, vocab_size, num_hidden_layers
        super().__init__(pad_token_id=0, **kwargs)


class Decoder(nn.Module):
    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        width = config.hidden_size
        self.layers = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(config.num_hidden_layers)])

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        hidden = inputs_embeds.cumsum(dim=1)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class LinearModel(PreTrainedModel):
    config_class = LinearConfig

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, inputs_embeds: Tensor, use_cache: bool = False, **kwargs: Any) -> CausalLMOutputWithPast:
        del use_cache, kwargs
        return CausalLMOutputWithPast(logits=self.head(self.decoder(inputs_embeds)))


def linear_model(seed: int = 0) -> LoadedModel:
    torch.manual_seed(seed)
    model = LinearModel(LinearConfig()).eval()
    return LoadedModel(lm=SimpleNamespace(), model=model, tokenizer=SimpleNamespace())  # type: ignore[arg-type]


def encoded(loaded: LoadedModel, ids: list[int], chosen: int, rejected: int, name: str = "one") -> EncodedExample:
    """An example whose first token is special (no candidate), with one-token responses."""
    prompt = torch.tensor(ids)
    return EncodedExample(
        example=PreferenceExample(name, name, "prompt", "chosen", "rejected"),
        input_ids=prompt,
        tokens=tuple(map(str, ids)),
        embeddings=loaded.model.get_input_embeddings()(prompt).detach(),
        is_image=torch.zeros(len(ids), dtype=torch.bool),
        is_candidate=torch.arange(len(ids)) > 0,
        chosen=torch.tensor([chosen]),
        rejected=torch.tensor([rejected]),
    )


def maps(loaded: LoadedModel) -> list[Tensor]:
    """`M_l` for each layer."""
    product, found = torch.eye(3), list[Tensor]()
    for layer in loaded.model.get_decoder().layers:  # type: ignore[union-attr]
        product = layer.weight.detach() @ product
        found.append(product)
    return found


def expected_scores(loaded, example, baseline):
    """Integrated Gradients from `baseline`, in closed form."""
    unembedding = loaded.model.get_output_embeddings().weight.detach()
    sensitivity = maps(loaded)[-1].T @ (unembedding[example.chosen[0]] - unembedding[example.rejected[0]])
    return (example.embeddings - baseline) @ sensitivity
