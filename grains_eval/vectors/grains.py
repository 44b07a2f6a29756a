"""GrAInS: attribution, masked contrast, direction (arXiv 2507.18043; method steps 2-5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grains_eval.attribution import select
from grains_eval.attribution.baselines import prompt_baseline
from grains_eval.attribution.transfer import Candidate
from grains_eval.errors import GrainsError
from grains_eval.models import EncodedExample
from grains_eval.models.activations import PromptStates, median_norms, prompt_states, response_states
from grains_eval.recipes import Section, method_options
from grains_eval.types import SteeringVectors, TokenSelection
from grains_eval.vectors.context import BuildContext, BuiltVectors
from grains_eval.vectors.direction import direction
from grains_eval.vectors.registry import vector_method
from grains_eval.vectors.transfer import each_alone, read_tokens, transfer


@vector_method("grains", is_attributing=True)
def grains(context: BuildContext) -> BuiltVectors:
    """GrAInS: `v_l = v+_l - v-_l`, the directions that masking `T+` and `T-` takes from the prompt's last state.

    Raises:
        GrainsError: no token of either sign qualified in any example, or states that are not finite.
    """
    method_options(context.recipe, Section)  # none: its settings are in `attribution` and `vectors`
    config = context.recipe.attribution
    attributions = [context.attribute(example, config) for example in context.progress(context.examples, "attribution")]

    def token_deltas(index: int, positions: Sequence[int]) -> Tensor:
        example = context.examples[index]
        variants = torch.stack([masked(context, example, [position]) for position in positions])
        rows = torch.cat([example.embeddings.float()[None], variants])
        last = prompt_states(context.loaded.model, example, rows).last
        return last[:1] - last[1:]

    def transferred(candidates: Sequence[Candidate]) -> Tensor:
        return transfer(context, each_alone(read_tokens(context, candidates)))

    selections = select(attributions, context.examples, config, token_deltas, transferred)
    return BuiltVectors(contrast(context, selections), tuple(attributions), tuple(selections))


def contrast(context: BuildContext, selections: Sequence[TokenSelection]) -> SteeringVectors:
    """Masked contrast over all examples, then one direction per layer (method steps 4-5).

    Raises:
        GrainsError: nothing was selected, or a state is not finite.
    """
    if not any(selection.positive or selection.negative for selection in selections):
        raise GrainsError(
            "no prompt token qualified in any example: every candidate has score 0 or is shared by most prompts; "
            "raise attribution.max_document_frequency or check the examples"
        )
    positive: list[Tensor] = []
    negative: list[Tensor] = []
    states: list[PromptStates] = []
    by_id = {id(example): selection for example, selection in zip(context.examples, selections, strict=True)}
    for example in context.progress(context.examples, "contrast"):
        selection = by_id[id(example)]
        rows = torch.stack(
            [
                example.embeddings.float(),
                masked(context, example, selection.positive),
                masked(context, example, selection.negative),
            ]
        )
        read = prompt_states(context.loaded.model, example, rows)
        if not torch.isfinite(read.last).all():
            raise GrainsError(f"example {example.example.id}: a layer output is not finite; load the model in float32")
        states.append(read)
        variants = [read.last]
        if context.recipe.vectors.at == "response":
            variants = [
                response_states(context.loaded.model, example, rows, response)
                for response in (example.chosen, example.rejected)
            ]
        if selection.positive:
            positive.extend(variant[0] - variant[1] for variant in variants)
        if selection.negative:
            negative.extend(variant[0] - variant[2] for variant in variants)
    return _assemble(context, positive, negative, states)


def _assemble(
    context: BuildContext, positive: list[Tensor], negative: list[Tensor], states: list[PromptStates]
) -> SteeringVectors:
    depth, width = states[0].last.shape[1:]
    kind = context.recipe.vectors.direction
    sides = {
        name: torch.stack(deltas) if deltas else torch.zeros(0, depth, width)
        for name, deltas in (("positive", positive), ("negative", negative))
    }
    directions: dict[int, Tensor] = {}
    statistics: dict[int, dict[str, float]] = {}
    for layer in range(depth):
        found = {name: direction(deltas[:, layer], kind) for name, deltas in sides.items()}
        directions[layer] = found["positive"].vector - found["negative"].vector
        statistics[layer] = {
            f"{name}.{key}": value for name, side in found.items() for key, value in side.statistics.items()
        }
    return SteeringVectors(directions, median_norms(states), "block_output", statistics)


def masked(context: BuildContext, example: EncodedExample, positions: Sequence[int]) -> Tensor:
    r"""`x \ S`: prompt embeddings `[T, H]` float32 with the tokens at `positions` removed.

    Tokens are replaced by the attribution baseline; with `vectors.mask: pixel` the selected patches are greyed in the
    image instead and the image is encoded anew, since a vision tower that mixes patches leaves a masked patch's
    content in its neighbours.
    """
    config = context.recipe.attribution
    rows = example.embeddings.float().clone()
    if not positions:
        return rows
    index = torch.tensor(list(positions), device=rows.device)
    visual = example.is_image.to(rows.device)[index]
    if context.recipe.vectors.mask == "pixel" and visual.any():
        from grains_eval.models.vision import pixel_masked

        patches = [patch for position in positions if (patch := example.patches[position]) is not None]
        rows = pixel_masked(context.loaded, example, patches).embeddings.float().clone()
        index = index[~visual]
    if len(index):
        rows[index] = prompt_baseline(context.loaded.model, example, config)[index]
    return rows
