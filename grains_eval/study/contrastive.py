"""Choose how strongly context-aware decoding amplifies contexts, on development items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lm_eval.api.instance import Instance

from grains_eval.examples.contexts import without_context
from grains_eval.harness.contrastive import Pair, encode_pair, score_contrasted
from grains_eval.models import LoadedModel, prompt_text
from grains_eval.models.layers import find_layers
from grains_eval.progress import Progress, silent
from grains_eval.recipes import Recipe, method_options
from grains_eval.study.development_set import ChoiceItem, DevelopmentSet, preserved_accuracy
from grains_eval.study.tune import Choice, choose, curve_points, spread
from grains_eval.types import PreferenceExample, SteeringConfig
from grains_eval.vectors.contrastive import SOURCE_ALPHA, Options
from grains_eval.vectors.own_steering import evenly_spaced


def choose_alpha(
    loaded: LoadedModel, development: DevelopmentSet, recipe: Recipe, contexts: Mapping[str, str], progress: Progress
) -> Choice:
    """The recipe's alpha, or the best of as many as a vector has settings, by the rule of `tune.choose`.

    The setting's strength is alpha; it has no layers.

    Raises:
        GrainsError: a context that is not in its prompt.
    """
    options = method_options(recipe, Options)
    if options.alpha != "auto":
        return Choice(SteeringConfig((), float(options.alpha)), None)
    if not any(example.context for example in development.preference):
        missing = "no development example has a context" if development.preference else "there are no development items"
        return Choice(SteeringConfig((), SOURCE_ALPHA), f"as in the method's source: {missing}")
    given = recipe.steering.strengths
    alphas = spread(given, len(given) * len(evenly_spaced(range(len(find_layers(loaded.model))))))
    tried = [0.0, *(alpha for alpha in alphas if alpha > 0)]
    pairs = [pair for example in development.preference for pair in _pairs(loaded, example)]
    scores = score_contrasted(loaded.lm, pairs, tried, disable_tqdm=progress is silent)
    logprobs = torch.tensor([[each[0] for each in found] for found in scores])
    preserved = _preserved(loaded, development.preserved, contexts, tried)
    settings = [SteeringConfig((), alpha) for alpha in tried]
    rows = logprobs.view(len(tried), len(development.preference), 2)
    return choose(curve_points(loaded, development, settings, rows, preserved), recipe.evaluation)


def _pairs(loaded: LoadedModel, example: PreferenceExample) -> list[Pair]:
    """Both responses after the prompt with and without its context; twice the same prompt where it has none."""
    prompt = prompt_text(loaded, example)
    bare = prompt if example.context is None else without_context(prompt, example.context, f"example {example.id}")
    return [encode_pair(loaded.lm, prompt, bare, response) for response in (example.chosen, example.rejected)]


def _preserved(
    loaded: LoadedModel, items: Sequence[ChoiceItem], contexts: Mapping[str, str], alphas: Sequence[float]
) -> list[float]:
    """Accuracy on preserved items at every alpha; an item without a context is as on the plain model."""
    requests: list[Instance] = [request for item in items for request in item.requests]
    bare = loaded.lm.prompts_without_context(requests, contexts)
    if not bare:
        return preserved_accuracy(loaded, items, [()]) * len(alphas)
    plain = [each[0] for each in loaded.lm.loglikelihood(requests, disable_tqdm=True)]
    pairs = [encode_pair(loaded.lm, requests[i].args[0], text, requests[i].args[1]) for i, text in bare.items()]
    found: list[float] = []
    for scores in score_contrasted(loaded.lm, pairs, alphas, disable_tqdm=True):
        values = list(plain)
        for index, score in zip(bare, scores, strict=True):
            values[index] = score[0]
        right, start = 0, 0
        for item in items:
            own = values[start : start + len(item.requests)]
            right += own.index(max(own)) in item.gold
            start += len(own)
        found.append(right / len(items))
    return found
