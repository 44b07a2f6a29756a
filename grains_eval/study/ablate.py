"""A grid over recipe keys, each point built and evaluated: the paper's ablations as one command each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from grains_eval.errors import GrainsError
from grains_eval.models import LoadedModel
from grains_eval.preferences import load_examples
from grains_eval.recipes import Recipe
from grains_eval.report.data import Curve, ReportData
from grains_eval.report.write import refuse_existing
from grains_eval.study.backends import PLAIN, Backend
from grains_eval.study.build import build_context_with_cache, weights_fingerprint
from grains_eval.study.cache import AttributionCache
from grains_eval.study.compare import SCORES, compare_variants
from grains_eval.study.faithfulness import faithfulness, faithfulness_figure
from grains_eval.study.loading import load_lm
from grains_eval.vectors.context import silent

_COUNTS = (1, 2, 5, 10, 20)


def parse_grid(grid: Sequence[str], recipe: Recipe) -> dict[str, Recipe]:
    """The product of `section.key=a,b,c` as named variants of the recipe.

    A value may itself be a list in brackets: `steering.layers=[8],[16]`.

    Raises:
        GrainsError: no `=`, no values, an unknown key or a bad value.
    """
    axes: list[list[tuple[str, Any]]] = []
    for axis in grid:
        key, separator, text = axis.partition("=")
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError as error:
            raise GrainsError(f"--grid {axis}: the values are not a comma-separated list") from error
        if not separator or not values or "." not in key:
            raise GrainsError(f"--grid {axis}: write section.key=value,value (e.g. attribution.top_k=1,2,5)")
        axes.append([(key, value) for value in values])
    variants: dict[str, Recipe] = {}
    for point in product(*axes):
        overrides: dict[str, Any] = {}
        for key, value in point:
            *sections, last = key.split(".")
            inner = overrides
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[last] = value
        name = "__".join(f"{key.rpartition('.')[2]}={_plain(value)}" for key, value in point)
        variants[name] = recipe.variant(name, overrides)
    return variants


def _plain(value: Any) -> str:
    """A value as part of a folder's name."""
    text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in text)


def ablate(
    recipe: Recipe,
    model_args: Mapping[str, Any],
    output_path: str | Path,
    console: Any = None,
    *,
    grid: Sequence[str],
    overwrite: bool = False,
    progress: Callable[[Sequence[Any], str], Iterable[Any]] = silent,
    include_path: Sequence[str] = (),
    backend: Backend = PLAIN,
) -> ReportData:
    """Build and evaluate every point of a grid, and report them beside the unsteered model and the controls.

    Where the grid varies the attribution section, the report also holds each point's faithfulness curve.

    Args:
        recipe: The behaviour.
        model_args: lm-eval's model arguments.
        output_path: Where vectors, runs and the report go.
        console: A rich console to print the tables to.
        grid: `section.key=a,b` strings; the grid is their product.
        overwrite: Replace what is there.
        progress: Wraps loops, with a description.
        include_path: Folders with the user's own tasks.
        backend: What evaluates the points.

    Raises:
        GrainsError: a grid that is not understood, or anything that concerns all points alike.
    """
    variants = parse_grid(grid, recipe)
    if not overwrite:
        refuse_existing(Path(output_path))
    lm = load_lm(model_args)
    curves: list[Curve] = []
    if any(axis.startswith("attribution.") for axis in grid):
        loaded = LoadedModel.of(lm)
        weights = weights_fingerprint(loaded.model)
        seen: set[str] = set()
        for name, variant in variants.items():
            key = variant.attribution.model_dump_json(exclude={"top_k", "selection", "candidates"})
            if key in seen:
                continue
            seen.add(key)
            examples = load_examples(variant.data, loaded, include_path)
            cache = AttributionCache(Path(output_path) / SCORES, variant.seed, weights)  # the builds read it
            context = build_context_with_cache(loaded, examples.build, variant, cache, progress)
            curves.append(faithfulness_figure(name, faithfulness(context, _COUNTS)))
    return compare_variants(
        recipe,
        variants,
        model_args,
        output_path,
        console,
        overwrite=overwrite,
        progress=progress,
        include_path=include_path,
        title=f"{recipe.name}: ablation of {', '.join(axis.partition('=')[0] for axis in grid)}",
        curves=curves,
        lm=lm,
        backend=backend,
    )
