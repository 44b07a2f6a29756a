"""Score the prompt tokens of one example by the attribution method that its recipe names."""

from __future__ import annotations

import logging
import zlib
from dataclasses import replace

import torch

from grains_eval.attribution.baselines import prompt_baseline
from grains_eval.attribution.objective import frozen, objective
from grains_eval.attribution.registry import ATTRIBUTION_METHODS, Problem
from grains_eval.errors import GrainsError, pick
from grains_eval.models import EncodedExample, LoadedModel, encode_all
from grains_eval.models.embedding_check import refused_in_one_line
from grains_eval.models.memory import rows_that_fit, run_with_halving
from grains_eval.recipes import AttributionConfig
from grains_eval.types import Attribution, PreferenceExample

logger = logging.getLogger(__name__)


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
    method = pick(ATTRIBUTION_METHODS, config.method, ATTRIBUTION_METHODS.what)
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
        steps=min(config.steps, config.max_steps),
        rows=config.internal_batch_size or rows_that_fit(loaded.model, encoded, config.steps),
    )
    ends = torch.stack([problem.inputs, problem.baseline])
    with torch.no_grad(), refused_in_one_line(loaded.model):
        value, baseline_value = run_with_halving(
            lambda n: torch.cat([problem.objective(part) for part in ends.split(n)]), 2
        ).tolist()
    change = value - baseline_value
    while True:
        with frozen(loaded.model), torch.enable_grad(), refused_in_one_line(loaded.model):
            scores = run_with_halving(lambda n, now=problem: method.scores(replace(now, rows=n)), problem.rows)
        if not torch.isfinite(scores).all() or change != change:
            raise GrainsError(
                f"example {encoded.example.id}: {config.method} gave scores that are not finite; "
                "load the model in float32 or bfloat16 and choose attribution.baseline=pad or mean"
            )
        gap = abs(float(scores.sum()) - change) / max(abs(change), 1e-6)
        if not method.is_complete or gap <= config.tolerance or 2 * problem.steps > config.max_steps:
            break
        problem = replace(problem, steps=2 * problem.steps)
    if method.is_complete and gap > config.tolerance:
        logger.warning(
            "example %s: completeness error %.1f %% after %d nodes (tolerance %.1f %%)",
            encoded.example.id, 100 * gap, problem.steps, 100 * config.tolerance,
        )  # fmt: skip
    return Attribution(
        example_id=encoded.example.id,
        tokens=encoded.tokens,
        scores=scores.cpu(),
        is_image=encoded.is_image.cpu(),
        is_candidate=encoded.is_candidate.cpu(),
        value=value,
        baseline_value=baseline_value,
        completeness_error=gap if method.is_complete else float("nan"),
        steps=problem.steps,
        patches=encoded.patches,
    )
