"""Bi-directional preference optimisation (Cao et al. 2024, arXiv 2406.00045): a constant vector found by gradient.

The vector `v` of a layer minimises the mean over examples and over `d` drawn from {-1, 1} (equation 3) of
`-log sigmoid(d beta [log p(y+ | x, d v) / p(y+ | x) - log p(y- | x, d v) / p(y- | x)])`, where `p(. | x, d v)` is the
model with `d v` added to the layer's output at every token and `p(. | x)` the untouched model. Nothing else is trained,
so it shows how far a constant vector can go.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from grains_eval.errors import GrainsError
from grains_eval.models import EncodedExample
from grains_eval.models.activations import median_norms, prompt_states
from grains_eval.models.forward import response_logprobs
from grains_eval.models.hooks import hook_site
from grains_eval.models.layers import find_layers, hidden_size
from grains_eval.models.memory import rows_that_fit
from grains_eval.recipes import Count, Section, method_options
from grains_eval.types import SteeringConfig, SteeringVectors
from grains_eval.vectors.context import BuildContext, BuiltVectors
from grains_eval.vectors.own_steering import OwnSteering, evenly_spaced, section_for
from grains_eval.vectors.registry import vector_method

# trained to be added as it is, at layer 15 of 32 in the source, whose multipliers are about 1
STEERING = OwnSteering(
    source=SteeringConfig(strength=1.0, unit="absolute", operator="add"),
    tuned=SteeringConfig(strength=1.0, unit="absolute", operator="add"),
    depth=15 / 32,
)


class Options(Section):
    """`vectors.options` of `bipo`."""

    beta: Annotated[float, Field(gt=0)] = Field(0.1, description="strength of the tie to the untouched model")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        0.01, description="AdamW's, as a share of the layer's median token norm per coordinate"
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    epochs: Count = 20
    batch_size: Count = Field(4, description="examples per step; they run one at a time")
    warmup: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="share of the steps; then a cosine to zero")


def bidirectional_loss(scores: Tensor, reference: Tensor, sign: float, beta: float) -> Tensor:
    """Equation 3 for one example, nats, `[rows]`.

    Args:
        scores: `[rows, 2]` log-probabilities of `y+` and `y-` while `sign` times the vector acts.
        reference: `[2]` those of the untouched model.
        sign: `d`.
        beta: Strength of the tie to the untouched model.
    """
    gains = scores - reference
    return -torch.nn.functional.logsigmoid(sign * beta * (gains[:, 0] - gains[:, 1]))


@vector_method("bipo", steering=STEERING, is_baseline=True)
def bipo(context: BuildContext) -> BuiltVectors:
    """BiPO: a vector per layer, each trained alone by bi-directional preference optimisation (equation 3).

    The layers of one example are rows of one batch, each with the vector of its layer, so that a pass serves all.

    Raises:
        GrainsError: an unknown option, a layer that the model lacks, or a loss that is not finite.
    """
    options, model = method_options(context.recipe, Options), context.loaded.model
    layers = _layers(context)
    scales = median_norms([prompt_states(model, one, one.embeddings[None]) for one in context.examples])
    device, width = context.examples[0].embeddings.device, hidden_size(model)
    unit = torch.tensor([scales[layer] / width**0.5 for layer in layers], device=device)[:, None]
    with torch.no_grad():
        references = [response_logprobs(model, one, one.embeddings[None])[0] for one in context.examples]
    moved = torch.nn.Parameter(torch.zeros(len(layers), width, device=device))
    optimiser = torch.optim.AdamW([moved], lr=options.learning_rate, weight_decay=options.weight_decay)
    steps = options.epochs * -(-len(references) // options.batch_size)
    schedule = get_cosine_schedule_with_warmup(optimiser, int(options.warmup * steps), steps)
    order = torch.Generator().manual_seed(context.recipe.seed)
    losses = torch.zeros(len(layers))
    for epoch in context.progress(range(options.epochs), "training"):
        losses.zero_()
        for batch in torch.randperm(len(references), generator=order).split(options.batch_size):
            gradient = torch.zeros_like(moved)
            signs = 2 * torch.randint(2, (len(batch),), generator=order) - 1
            for index, sign in zip(batch.tolist(), signs.tolist(), strict=True):
                example, reference = context.examples[index], references[index]
                found = _loss_and_gradient(model, example, layers, moved * unit, sign, reference, options.beta)
                losses += found[0].cpu() / len(references)
                gradient += found[1] * unit / len(batch)
            moved.grad = gradient
            optimiser.step()
            schedule.step()
        if not losses.isfinite().all():
            raise GrainsError(f"the loss of epoch {epoch + 1} is not finite; lower vectors.options.learning_rate")
    directions = (moved.detach() * unit).cpu()
    statistics = {
        layer: {"loss": float(losses[row]), "norm": float(directions[row].norm())} for row, layer in enumerate(layers)
    }
    return BuiltVectors(
        SteeringVectors(
            dict(zip(layers, directions, strict=True)),
            {layer: scales[layer] for layer in layers},
            "block_output",
            statistics,
        )
    )


def _layers(context: BuildContext) -> list[int]:
    """Layers that the tuning may choose among."""
    section = section_for(context.recipe, STEERING)
    known = range(len(find_layers(context.loaded.model)))
    wanted = section.layers if isinstance(section.layers, list) else section.candidate_layers or evenly_spaced(known)
    if missing := next((layer for layer in wanted if layer not in known), None):
        raise GrainsError(f"layer {missing} is not in the model, which has layers 0 to {known[-1]}")
    return list(wanted)


def _loss_and_gradient(
    model: PreTrainedModel,
    example: EncodedExample,
    layers: Sequence[int],
    vectors: Tensor,
    sign: float,
    reference: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """`[L]` losses of one example and `[L, H]` gradients with respect to the vectors."""
    losses, gradients = list[Tensor](), list[Tensor]()
    rows = rows_that_fit(model, example, len(layers))
    for start in range(0, len(layers), rows):
        with torch.enable_grad():
            part = vectors[start : start + rows].detach().requires_grad_()
            with added(model, layers[start : start + rows], sign * part):
                prompt = example.embeddings[None].expand(len(part), -1, -1)
                loss = bidirectional_loss(response_logprobs(model, example, prompt), reference, sign, beta)
            gradients.append(torch.autograd.grad(loss.sum(), part)[0])
        losses.append(loss.detach())
    return torch.cat(losses), torch.cat(gradients)


@contextmanager
def added(model: PreTrainedModel, layers: Sequence[int], vectors: Tensor) -> Generator[None, None, None]:
    """Add vector `r` of `[R, H]` to the output of layer `layers[r]` in row `r` of every `R` rows, at every token."""
    modules = find_layers(model)

    def move(hidden: Tensor, row: int) -> Tensor:
        own = torch.zeros_like(vectors)
        own = own.index_add(0, torch.tensor([row], device=vectors.device), vectors[row, None]).to(hidden)
        shape = (len(vectors), *[1] * (hidden.ndim - 2), -1)
        return (hidden.unflatten(0, (-1, len(vectors))) + own.reshape(shape)).flatten(0, 1)

    with ExitStack() as stack:
        for row, layer in enumerate(layers):
            stack.callback(hook_site(modules[layer], "block_output", partial(move, row=row)).remove)
        yield
