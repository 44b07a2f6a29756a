"""The controls beside every claim: vectors that should not work as well, applied as the method is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grains_eval.artifacts.layout import fingerprint
from grains_eval.artifacts.load import load_vectors
from grains_eval.artifacts.save import save_vectors
from grains_eval.attribution import attribute
from grains_eval.examples import Examples
from grains_eval.models import LoadedModel
from grains_eval.recipes import Recipe
from grains_eval.steering import resolve
from grains_eval.study.build import build_context_with_cache
from grains_eval.types import Kind, SteeringVectors
from grains_eval.vectors.context import Progress
from grains_eval.vectors.controls import negate, project_out, random_like, random_tokens


@dataclass(frozen=True)
class Controls:
    """Names of the controls beside a method.

    Attributes:
        names: All of them.
        bands: Draws of one control, by its label.
        notes: Whose setting they have, and what was left out.
    """

    names: tuple[str, ...] = ()
    bands: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    notes: tuple[str, ...] = ()


def moves(vectors: SteeringVectors) -> bool:
    """Whether the recommended setting changes anything: not at strength 0, nor along directions of zeros."""
    resolved = resolve(vectors, vectors.recommended)
    return resolved is not None and any(bool(delta.any()) for delta in resolved.deltas.values())


def write_controls(
    method: str,
    artifact: Path,
    vocabulary: Path | None,
    recipe: Recipe,
    loaded: LoadedModel,
    examples: Examples,
    folder: Path,
    progress: Progress,
) -> Controls:
    """Write the controls of one vector method as artifacts, applied with the method's own setting.

    Random vectors of equal norm, the sign-flipped vector, random tokens at equal norm and at their raw
    scale, and the vector with the vocabulary direction projected out.

    Args:
        method: The method's name.
        artifact: Its artifact folder.
        vocabulary: The vocabulary control's folder, if there is one.
        recipe: The method's recipe.
        loaded: The model.
        examples: The build examples behind the method.
        folder: Where the controls' folders go.
        progress: Wraps loops over examples.
    """
    vectors = load_vectors(artifact)
    made: dict[str, SteeringVectors] = {f"{method}_negated": negate(vectors)}
    projected = f"{method}_without_vocabulary"
    if vocabulary is not None and vectors.site == "block_output":
        made[projected] = project_out(vectors, load_vectors(vocabulary))
    random = [f"random_{draw + 1}" for draw in range(recipe.evaluation.control_draws)]
    for draw, name in enumerate(random):
        made[name] = random_like(vectors, seed=recipe.seed + draw)
    equal, raw = list[str](), list[str]()
    if method == "grains" or recipe.vectors.method == "grains":
        for draw in range(recipe.evaluation.control_draws):
            context = build_context_with_cache(loaded, examples.build, recipe, None, progress)
            seed = recipe.seed + 1 + draw
            context = replace(context, attribute=lambda one, config, seed=seed: attribute(loaded, one, config, seed))
            drawn = random_tokens(context).vectors
            drawn = replace(drawn, recommended=vectors.recommended)
            equal.append(f"random_tokens_{draw + 1}")
            raw.append(f"random_tokens_raw_{draw + 1}")
            made[equal[-1]] = drawn
            made[raw[-1]] = replace(drawn, recommended=_raw_setting(drawn, vectors))
    idle = [name for name, control in made.items() if not moves(control)]
    made = {name: control for name, control in made.items() if name not in idle}
    for name, control in made.items():
        # derived from the method's own folder, so that one made from other vectors is out of date
        kind: Kind = "projection" if name == projected else "control"
        if not (folder / name).exists() or not _is_same(load_vectors(folder / name), control, kind):
            chosen = {"development_curve": [], "chosen_by": f"as for {method}"}
            origin = {**vectors.provenance, "method": name, "kind": kind, **chosen}
            save_vectors(replace(control, provenance=origin), folder / name, overwrite=True)
    bands = {"random vectors": random, "random tokens": equal, "random tokens, raw scale": raw}
    kept = {label: tuple(name for name in names if name in made) for label, names in bands.items()}
    notes = [f"{', '.join(idle)}: left out, since it moves nothing"] if idle else []
    return Controls(tuple(made), {label: names for label, names in kept.items() if names}, tuple(notes))


def _is_same(first: SteeringVectors, second: SteeringVectors, kind: Kind) -> bool:
    same = fingerprint(first) == fingerprint(second) and first.recommended == second.recommended
    return same and first.provenance.get("kind") == kind


def _raw_setting(drawn: SteeringVectors, vectors: SteeringVectors) -> Any:
    """The method's setting scaled by how much smaller the random tokens' deltas are."""
    layers = vectors.recommended.layers or vectors.layers
    ratio = sum(_delta_norm(drawn, layer) for layer in layers) / sum(_delta_norm(vectors, layer) for layer in layers)
    return replace(vectors.recommended, strength=vectors.recommended.strength * ratio)


def _delta_norm(vectors: SteeringVectors, layer: int) -> float:
    statistics = vectors.statistics[layer]
    return statistics.get("positive.delta_norm", 0.0) + statistics.get("negative.delta_norm", 0.0)
