"""A grid over recipe keys, each point built and evaluated: the paper's ablations as one command each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from grains_eval.comparison.settings import Analysis
from grains_eval.errors import GrainsError
from grains_eval.examples import load_examples
from grains_eval.plain_values import read_yaml
from grains_eval.recipes import Recipe, with_key
from grains_eval.report.data import Curve, Grid, ReportData, Supplement
from grains_eval.report.write import refuse_existing
from grains_eval.study.cache import AttributionCache, build_context_with_cache
from grains_eval.study.compare import SCORES, compare_variants
from grains_eval.study.faithfulness import faithfulness, faithfulness_figure
from grains_eval.study.provenance import weights_fingerprint
from grains_eval.study.session import OutputFolder, Session
from grains_eval.study.unfinished import claimed

_COUNTS = (1, 2, 5, 10, 20)


def parse_grid(grid: Sequence[str], recipe: Recipe) -> dict[str, Recipe]:
    """The product of `section.key=a,b,c` as named variants of the recipe.

    A value may itself be a list in brackets: `steering.layers=[8],[16]`.

    Raises:
        GrainsError: no `=`, no values, an unknown key or a bad value.
    """
    return {name: recipe.variant(name, _overrides(point)) for name, point in grid_points(grid).items()}


def grid_points(grid: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Values by key of every point, by its name.

    Raises:
        GrainsError: no `=` or no values.
    """
    axes: list[list[tuple[str, Any]]] = []
    for axis in grid:
        key, separator, text = axis.partition("=")
        try:
            values = read_yaml(f"[{text}]")
        except GrainsError as error:
            raise GrainsError(f"--grid {axis}: the values are not a comma-separated list") from error
        if not separator or not values or "." not in key:
            raise GrainsError(f"--grid {axis}: write section.key=value,value (e.g. attribution.top_k=1,2,5)")
        axes.append([(key, value) for value in values])
    return {
        "__".join(f"{key.rpartition('.')[2]}={_plain(value)}" for key, value in point): dict(point)
        for point in product(*axes)
    }


def _overrides(point: Mapping[str, Any]) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for key, value in point.items():
        overrides = with_key(overrides, key, value)
    return overrides


def _own(recipe: Recipe, keys: Sequence[str]) -> dict[str, Any]:
    """The recipe's own values of some keys."""
    whole = recipe.model_dump()
    found: dict[str, Any] = {}
    for key in keys:
        value: Any = whole
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found[key] = value
    return found


def _plain(value: Any) -> str:
    """A value as part of a folder's name."""
    text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in text)


def ablate(
    recipe: Recipe, session: Session, output: OutputFolder, *, grid: Sequence[str], all_metrics: bool = False
) -> ReportData:
    """Build and evaluate every point of a grid, and report them beside the unsteered model and the controls.

    Where the grid varies the attribution section, the report also holds each point's faithfulness curve.

    Args:
        recipe: The behaviour.
        session: The model, the user's tasks, console and progress display.
        output: Where vectors, runs and the report go.
        grid: `section.key=a,b` strings; the grid is their product.
        all_metrics: See `comparison.Analysis`.

    Raises:
        GrainsError: a grid that is not understood, or anything that concerns all points alike.
    """
    variants = parse_grid(grid, recipe)
    if not output.overwrite:
        refuse_existing(output.path)
    attributing = any(axis.startswith("attribution.") for axis in grid)
    with claimed(output.path):  # and let go, as the comparison claims it too
        session = session.opened()
        curves = _faithfulness_curves(variants, session, output.path / SCORES) if attributing else []
    title = f"{recipe.name}: ablation of {', '.join(axis.partition('=')[0] for axis in grid)}"
    analysis = Analysis(all_metrics=all_metrics)
    points = grid_points(grid)
    drawn = Grid(points, _own(recipe, list(next(iter(points.values())))))
    supplement = Supplement(title=title, curves=curves, grid=drawn)
    return compare_variants(recipe, variants, session, output, analysis, supplement)


def _faithfulness_curves(variants: Mapping[str, Recipe], session: Session, scores: Path) -> list[Curve]:
    """A curve for every way of scoring tokens; the scores are left for the builds."""
    weights = weights_fingerprint(session.loaded.model)
    curves: list[Curve] = []
    varies_count = len({variant.attribution.top_k for variant in variants.values()}) > 1
    seen: set[str] = set()
    for name, variant in variants.items():
        scoring = variant.attribution.model_dump_json(exclude={"top_k", "selection", "candidates"})
        if scoring in seen:
            continue
        seen.add(scoring)
        examples = load_examples(variant.data, session.loaded, session.include_path)
        cache = AttributionCache(scores, variant.seed, weights)
        context = build_context_with_cache(session.loaded, examples.build, variant, cache, session.progress)
        masked = variant.attribution.top_k if not varies_count else None
        curves.append(faithfulness_figure(name, faithfulness(context, _COUNTS), masked))
    return curves
