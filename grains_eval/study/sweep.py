"""Validation curves on development items: over strength and layer, number of tokens, number of examples."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any

from rich.table import Table

from grains_eval.errors import GrainsError
from grains_eval.models import LoadedModel
from grains_eval.models.blocks import find_blocks
from grains_eval.preferences import Examples, load_examples
from grains_eval.recipes import Recipe
from grains_eval.report.html import render_curves
from grains_eval.report.write import write_together
from grains_eval.steering import check_layer
from grains_eval.study.build import build_context_with_cache, weights_fingerprint
from grains_eval.study.cache import AttributionCache
from grains_eval.study.development import DevelopmentSet, development_set
from grains_eval.study.figures import strength_curves
from grains_eval.study.loading import load_plain
from grains_eval.study.making import TOKEN_METHODS, Job, make_tokens
from grains_eval.study.token_sweep import token_choices
from grains_eval.study.tune import Choice, CurvePoint, choose, curve, grid
from grains_eval.types import FoundTokens, SteeringConfig, TokenConfig
from grains_eval.vectors import run_method
from grains_eval.vectors.context import silent

FILES = ("sweep.json", "sweep.csv", "sweep.html")


@dataclass(frozen=True)
class SweepResult:
    """Curves of one sweep.

    Attributes:
        choices: The chosen setting and its curve, by what was varied (`top_k=5, examples=50`).
        best: Key of the best-ranked choice.
    """

    choices: Mapping[str, Choice]
    best: str


def sweep(
    recipe: Recipe,
    model_args: Mapping[str, Any],
    output_path: str | Path,
    console: Any = None,
    *,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] | None = None,
    top_k: Sequence[int] | None = None,
    examples: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
    distances: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: Callable[[Sequence[Any], str], Iterable[Any]] = silent,
    include_path: Sequence[str] = (),
) -> SweepResult:
    """Measure settings on development items and choose one under the preservation constraint.

    Args:
        recipe: The behaviour.
        model_args: lm-eval's model arguments.
        output_path: Folder for `sweep.json`, `sweep.csv` and `sweep.html`.
        console: A rich console to print the tables to.
        layers: Blocks to try, each alone; default: as for `auto`.
        strengths: Strengths to try; default: the recipe's grid.
        top_k: Numbers of selected tokens to try; default: the recipe's. Not of found tokens.
        examples: Numbers of build examples to try; the smaller sets are parts of the larger. Default: the recipe's.
        tokens: Of found tokens: numbers of virtual tokens to try; default: the recipe's.
        distances: Of found tokens: distances to try; default: those that they were found at.
        overwrite: Replace what is there.
        progress: Wraps loops, with a description.
        include_path: Folders with the user's own tasks.

    Raises:
        GrainsError: no development examples, a layer the model lacks, or files in the way.
    """
    output = Path(output_path)
    if not overwrite and (found := [name for name in FILES if (output / name).exists()]):
        raise GrainsError(f"'{output / found[0]}' exists; choose another --output_path or pass --overwrite")
    if not recipe.data.development:
        raise GrainsError("a sweep needs development examples; set data.development above 0")
    of_tokens = recipe.vectors.method in TOKEN_METHODS
    foreign = {"top_k": top_k} if of_tokens else {"tokens": tokens, "distances": distances}
    for name, given in foreign.items():
        if given is not None:
            raise GrainsError(f"--{name} does not apply to method {recipe.vectors.method}; leave it out")
    open_recipe = recipe.variant("sweep", {"steering": {"layers": "auto", "strength": "auto"}})
    loaded = LoadedModel.of(load_plain(model_args))
    for layer in layers or ():
        check_layer(layer, len(find_blocks(loaded.model)))
    drawn = load_examples(
        recipe.data.model_copy(update={"examples": max(examples or [recipe.data.examples])}), loaded, include_path
    )
    development = development_set(loaded, drawn.development, recipe, include_path)
    choices: dict[str, Choice] = {}
    cache = AttributionCache(output / "attributions.partial", recipe.seed, weights_fingerprint(loaded.model))
    for count in examples or [recipe.data.examples]:
        if of_tokens:
            part = Examples(drawn.build[:count], drawn.development)
            context = build_context_with_cache(loaded, part.build, recipe, cache, progress)
            built = make_tokens(Job(context, development, output)).vectors
            assert isinstance(built, FoundTokens)
            found = token_choices(
                loaded,
                built,
                development,
                recipe.evaluation,
                progress,
                layers=layers,
                strengths=strengths,
                tokens=tokens,
                distances=distances,
            )
            choices |= {f"{name}, examples={count}": choice for name, choice in found.items()}
            continue
        for k in top_k or [recipe.attribution.top_k]:
            variant = open_recipe.variant("sweep", {"attribution": {"top_k": k}})
            name = f"top_k={k}, examples={count}"
            part = Examples(drawn.build[:count], drawn.development)
            choices[name] = _measure(loaded, variant, part, development, layers, strengths, cache, progress)
    best = max(choices, key=lambda name: choices[name].point.rank)
    key = "vectors.options" if of_tokens else "steering"
    _write(output, choices, best, development)
    shutil.rmtree(cache.folder, ignore_errors=True)
    if console is not None:
        for name, choice in choices.items():
            console.print(table(name, choice))
        config = choices[best].config
        blocks = "all" if config.layers is None else "/".join(map(str, config.layers))
        console.print(f"chosen: {best}, layers={blocks}, strength={config.strength:g}: {choices[best].reason}")
        console.print(f"fix it in the recipe's {key} section, or give layers= and strength= to grains_hf")
        console.print(f"curves: {output / 'sweep.html'}")
    return SweepResult(choices, best)


def _measure(
    loaded: LoadedModel,
    recipe: Recipe,
    examples: Examples,
    development: DevelopmentSet,
    layers: Sequence[int] | None,
    strengths: Sequence[float] | None,
    cache: AttributionCache,
    progress: Callable[[Sequence[Any], str], Iterable[Any]],
) -> Choice:
    context = build_context_with_cache(loaded, examples.build, recipe, cache, progress)
    vectors = run_method(context).vectors
    settings = grid(vectors, recipe, layers, strengths)
    return choose(curve(loaded, vectors, development, settings, progress), recipe.evaluation)


def table(name: str, choice: Choice) -> Table:
    """One curve for the terminal; the chosen point is marked."""
    shown = Table(title=name, caption=choice.reason)
    unsteered = choice.points[0]
    changes = ("Δ log p(y+)", "Δ log p(y−)")
    for column in ("block", "strength", "accuracy", "95 % interval", "margin (nats)", *changes, "preserved", ""):
        shown.add_column(column, justify="left" if column in {"block", ""} else "right")
    for index, point in enumerate(choice.points):
        blocks = (
            "–" if index == 0 else "all" if point.config.layers is None else ", ".join(map(str, point.config.layers))
        )
        shown.add_row(
            blocks,
            f"{point.config.strength:g}",
            f"{point.accuracy:.3f}",
            f"{point.lower:.3f} to {point.upper:.3f}",
            f"{point.margin:+.2f}",
            f"{point.log_p_chosen - unsteered.log_p_chosen:+.2f}",
            f"{point.log_p_rejected - unsteered.log_p_rejected:+.2f}",
            "–" if point.preserved != point.preserved else f"{point.preserved:.3f}",
            "chosen" if point.config == choice.config else "",
        )
    return shown


def _row(name: str, point: CurvePoint) -> dict[str, Any]:
    return {"varied": name, **_setting(point.config), **point.numbers()}


def _setting(config: SteeringConfig | TokenConfig) -> dict[str, Any]:
    """As JSON values, which know no infinity: found tokens that are off have no strength."""
    return {**asdict(config), "strength": config.strength if isfinite(config.strength) else None}


def _write(output: Path, choices: Mapping[str, Choice], best: str, development: DevelopmentSet) -> None:
    rows = [_row(name, point) for name, choice in choices.items() for point in choice.points]
    summary = {
        "chosen": {"varied": best, **_setting(choices[best].config), "reason": choices[best].reason},
        "notes": list(development.notes),
        "points": rows,
    }
    figures = [
        figure
        for name, choice in choices.items()
        for figure in strength_curves(name, [_row(name, point) for point in choice.points])
    ]
    page = render_curves("Sweep on development items", figures, [str(choices[best].reason), *development.notes])
    lines = StringIO()
    writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    texts = {"sweep.json": json.dumps(summary, indent=2) + "\n", "sweep.html": page, "sweep.csv": lines.getvalue()}
    write_together(output, texts)
