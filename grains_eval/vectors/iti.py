"""Inference-time intervention and its non-linear form: heads that tell `y+` from `y-` are shifted to `y+`.

ITI: Li et al. 2023, arXiv 2306.03341. NL-ITI: Hoscilowicz et al. 2024, arXiv 2403.18680.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from grains_eval.errors import GrainsError
from grains_eval.models.layers import text_config
from grains_eval.recipes import Count, Section, method_options
from grains_eval.types import SteeringConfig, SteeringVectors
from grains_eval.vectors.context import BuildContext, BuiltVectors
from grains_eval.vectors.own_steering import OwnSteering
from grains_eval.vectors.registry import vector_method
from grains_eval.vectors.response_states import ResponseStates, read_responses

# alpha = 15 standard deviations, no renormalisation, wherever there are chosen heads
_SOURCE = SteeringConfig(strength=15.0, unit="absolute", operator="add")
STEERING = OwnSteering(source=_SOURCE, tuned=_SOURCE)
_MOST_HEADS = 48

Probe = Callable[[], Any]


class Options(Section):
    """`vectors.options` of `iti`."""

    heads: Count | None = Field(None, description="K; default 48, and at most half of all heads")
    folds: Annotated[int, Field(ge=2)] = Field(5, description="folds over the build examples that validate the probes")


class NonLinearOptions(Options):
    """`vectors.options` of `nl_iti`."""

    hidden: Count = Field(16, description="hidden units of the probe")
    last_tokens: Count = Field(4, description="response tokens that are averaged")


@dataclass(frozen=True)
class HeadScore:
    """How well a head's output tells `y+` from `y-`.

    Attributes:
        layer: Its layer.
        head: Its index within the layer.
        accuracy: Of its probe, on examples that it was not fitted on.
        separation: Distance of the class means over the standard deviation along it; decides between equal
            accuracies.
    """

    layer: int
    head: int
    accuracy: float
    separation: float


@vector_method("iti", steering=STEERING, is_baseline=True)
def iti(context: BuildContext) -> BuiltVectors:
    """ITI: linear probes on the head outputs at the last response token."""
    options = method_options(context.recipe, Options)

    def probe() -> Any:
        return LogisticRegression(max_iter=1000)

    return _build(context, options, probe, last_tokens=1)


@vector_method("nl_iti", steering=STEERING, is_baseline=True)
def nl_iti(context: BuildContext) -> BuiltVectors:
    """NL-ITI: probes with a hidden layer, on head outputs averaged over the last response tokens."""
    options = method_options(context.recipe, NonLinearOptions)

    def probe() -> Any:
        return MLPClassifier((options.hidden,), solver="lbfgs", max_iter=200, random_state=context.recipe.seed)

    return _build(context, options, probe, options.last_tokens)


def _build(context: BuildContext, options: Options, probe: Probe, last_tokens: int) -> BuiltVectors:
    """`v_l`: `sigma * theta` of each chosen head: the mean difference's direction, the deviation along it.

    Raises:
        GrainsError: fewer examples than folds, or an attention whose heads cannot be told apart.
    """
    states = read_responses(context, "attention_heads", last_tokens)
    depth, width = states.chosen.shape[1:]
    heads = int(text_config(context.loaded.model).num_attention_heads)
    if width % heads:
        raise GrainsError(
            f"attention outputs of width {width} do not divide into {heads} heads; iti cannot be used here"
        )
    if len(states.chosen) < options.folds:
        raise GrainsError(
            f"{context.recipe.vectors.method} validates its probes on {options.folds} folds but has "
            f"{len(states.chosen)} examples; raise data.examples or lower vectors.options.folds"
        )
    scores = [
        score
        for layer in range(depth)
        for score in score_heads(states, layer, heads, probe, options.folds, context.recipe.seed)
    ]
    count = options.heads or min(_MOST_HEADS, max(1, depth * heads // 2))
    if count > len(scores):
        raise GrainsError(f"vectors.options.heads is {count} but the model has {len(scores)} attention heads")
    best = best_heads(scores, count)
    directions: dict[int, Tensor] = {}
    statistics: dict[int, dict[str, float]] = {}
    for layer in sorted({score.layer for score in best}):
        chosen = [score for score in best if score.layer == layer]
        directions[layer] = shift(states, layer, heads, [score.head for score in chosen])
        accuracies = [score.accuracy for score in chosen]
        statistics[layer] = {
            "heads": float(len(chosen)),
            "probe_accuracy": float(np.mean(accuracies)),
            "best_probe_accuracy": max(accuracies),
        }
    scales = {layer: states.scales[layer] for layer in directions}
    return BuiltVectors(SteeringVectors(directions, scales, "attention_heads", statistics))


def best_heads(scores: Sequence[HeadScore], count: int) -> list[HeadScore]:
    """The most accurate heads, equal ones by separation and then by place."""
    ordered = sorted(scores, key=lambda score: (-score.accuracy, -score.separation, score.layer, score.head))
    return ordered[:count]


def score_heads(states: ResponseStates, layer: int, heads: int, probe: Probe, folds: int, seed: int) -> list[HeadScore]:
    """Cross-validate a probe per head of a layer; both responses of an example stay in the same fold."""
    examples = len(states.chosen)
    labels = np.repeat([1, 0], examples)
    groups = np.tile(np.arange(examples), 2)
    splits = list(GroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups))
    stacked = torch.cat([states.chosen[:, layer], states.rejected[:, layer]])
    found: list[HeadScore] = []
    for head, features in enumerate(stacked.double().numpy().reshape(2 * examples, heads, -1).swapaxes(0, 1)):
        right = 0
        for fit, held_out in splits:
            classifier: Any = make_pipeline(StandardScaler(), probe())
            with warnings.catch_warnings():
                # a probe on noise need not converge; its accuracy shows what it is worth
                warnings.simplefilter("ignore", ConvergenceWarning)
                classifier.fit(features[fit], labels[fit])
            right += int((classifier.predict(features[held_out]) == labels[held_out]).sum())
        theta, sigma = _mean_shift(features[:examples], features[examples:])
        distance = float((features[:examples].mean(0) - features[examples:].mean(0)) @ theta)
        found.append(HeadScore(layer, head, right / len(labels), distance / max(sigma, 1e-12)))
    return found


def shift(states: ResponseStates, layer: int, heads: int, chosen: list[int]) -> Tensor:
    """`[heads * head_dim]`: `sigma * theta` in the chosen heads' places, zero in the others'."""
    direction = torch.zeros(heads, states.chosen.shape[-1] // heads)
    for head in chosen:
        preferred, rejected = (
            side[:, layer].reshape(len(side), heads, -1)[:, head].double().numpy()
            for side in (states.chosen, states.rejected)
        )
        theta, sigma = _mean_shift(preferred, rejected)
        direction[head] = torch.from_numpy(sigma * theta).float()
    return direction.flatten()


def _mean_shift(preferred: Any, rejected: Any) -> tuple[Any, float]:
    """Unit vector from the mean of `[N, D]` rejected to preferred rows, and the deviation of all along it."""
    difference = preferred.mean(axis=0) - rejected.mean(axis=0)
    theta = difference / max(float(np.linalg.norm(difference)), 1e-12)
    return theta, float(np.std(np.concatenate([preferred, rejected]) @ theta))
