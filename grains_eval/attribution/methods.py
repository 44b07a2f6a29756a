"""The table of attribution methods and the function that runs one on an example."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from grains_eval.attribution.baselines import prompt_baseline
from grains_eval.attribution.gradient import gradient_x_input, smoothgrad
from grains_eval.attribution.integrated_gradients import integrated_gradients
from grains_eval.attribution.objective import Objective, frozen, objective
from grains_eval.errors import GrainsError, pick
from grains_eval.models import EncodedExample, LoadedModel, encode_all
from grains_eval.models.memory import rows_that_fit, run_with_halving
from grains_eval.models.parity import refused_in_one_line
from grains_eval.recipes import AttributionConfig
from grains_eval.types import Attribution, PreferenceExample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """What an attribution method sees of one example.

    Attributes:
        objective: `F`, `[B, T, H]` float32 to `[B]`.
        inputs: `[T, H]` float32, `x`.
        baseline: `[T, H]` float32, `x'`.
        config: The recipe's section.
        seed: Differs between examples, the same on every run.
    """

    objective: Objective
    inputs: Tensor
    baseline: Tensor
    config: AttributionConfig
    seed: int


# (problem, steps, rows per pass) -> [T] scores
AttributionMethod = Callable[[Problem, int, int], Tensor]


def _integrated_gradients(problem: Problem, steps: int, rows: int) -> Tensor:
    return integrated_gradients(problem.objective, problem.inputs, problem.baseline, steps, rows)


def _gradient(problem: Problem, steps: int, rows: int) -> Tensor:
    del steps, rows
    return gradient_x_input(problem.objective, problem.inputs)


def _smoothgrad(problem: Problem, steps: int, rows: int) -> Tensor:
    del steps
    config = problem.config
    return smoothgrad(problem.objective, problem.inputs, config.samples, config.noise, rows, problem.seed)


def _random(problem: Problem, steps: int, rows: int) -> Tensor:
    """Standard normal scores: the control that selects tokens blindly."""
    del steps, rows
    generator = torch.Generator().manual_seed(problem.seed)
    return torch.randn(len(problem.inputs), generator=generator).to(problem.inputs.device)


ATTRIBUTION_METHODS: Mapping[str, AttributionMethod] = {
    "integrated_gradients": _integrated_gradients,
    "gradient": _gradient,
    "smoothgrad": _smoothgrad,
    "random": _random,
}
COMPLETE = frozenset({"integrated_gradients"})


def attribute(
    loaded: LoadedModel,
    example: PreferenceExample | EncodedExample,
    config: AttributionConfig | None = None,
    seed: int = 0,
) -> Attribution:
    """Score every prompt token of one example.

    Where the method promises completeness, nodes are doubled from `steps` while the relative gap is above `tolerance`
    and `max_steps` is not reached; a gap that remains is logged as a warning and kept in the result.

    Args:
        loaded: The model; its parameters are frozen for the call and restored.
        example: The example, encoded or not.
        config: The recipe's `attribution` section.
        seed: Seeds SmoothGrad and random scores, together with the example's id.

    Raises:
        GrainsError: an unknown method, an example that cannot be encoded, scores that are not finite, or a model that
            computes something else from embeddings than from tokens or has no gradient there; see `models.encode_all`.
    """
    config = config or AttributionConfig()
    method = pick(ATTRIBUTION_METHODS, config.method, "attribution method")
    encoded = (
        example
        if isinstance(example, EncodedExample)
        else encode_all(loaded, [example], config.visual_baseline, reads_states=False)[0]
    )
    problem = Problem(
        objective=objective(loaded.model, encoded, config),
        inputs=encoded.embeddings.float(),
        baseline=prompt_baseline(loaded.model, encoded, config),
        config=config,
        seed=zlib.crc32(f"{seed}:{encoded.example.id}".encode()),
    )
    ends = torch.stack([problem.inputs, problem.baseline])
    with torch.no_grad(), refused_in_one_line(loaded.model):
        value, baseline_value = run_with_halving(
            lambda n: torch.cat([problem.objective(part) for part in ends.split(n)]), 2
        ).tolist()
    change = value - baseline_value
    rows = config.internal_batch_size or rows_that_fit(loaded.model, encoded, config.steps)
    steps = min(config.steps, config.max_steps)
    while True:
        with frozen(loaded.model), torch.enable_grad(), refused_in_one_line(loaded.model):
            scores = run_with_halving(lambda n, steps=steps: method(problem, steps, n), rows)
        if not torch.isfinite(scores).all() or change != change:
            raise GrainsError(
                f"example {encoded.example.id}: {config.method} gave scores that are not finite; "
                "load the model in float32 or bfloat16 and choose attribution.baseline=pad or mean"
            )
        gap = abs(float(scores.sum()) - change) / max(abs(change), 1e-6)
        if config.method not in COMPLETE or gap <= config.tolerance or 2 * steps > config.max_steps:
            break
        steps *= 2
    if config.method in COMPLETE and gap > config.tolerance:
        logger.warning(
            "example %s: completeness error %.1f %% after %d nodes (tolerance %.1f %%)",
            encoded.example.id, 100 * gap, steps, 100 * config.tolerance,
        )  # fmt: skip
    return Attribution(
        example_id=encoded.example.id,
        tokens=encoded.tokens,
        scores=scores.cpu(),
        is_image=encoded.is_image.cpu(),
        is_candidate=encoded.is_candidate.cpu(),
        value=value,
        baseline_value=baseline_value,
        completeness_error=gap if config.method in COMPLETE else float("nan"),
        steps=steps,
        patches=encoded.patches,
    )
