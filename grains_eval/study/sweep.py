"""Validation curves on development items: over strength and layer, number of tokens, distance, number of examples."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from math import inf
from pathlib import Path
from typing import Any

from rich.table import Table

from grains_eval.artifacts.layout import Artifact
from grains_eval.errors import GrainsError, pick
from grains_eval.examples import Examples, load_examples
from grains_eval.files import finished, written_together
from grains_eval.harness.arguments import AppliedArtifact, check_artifact
from grains_eval.models.layers import find_layers
from grains_eval.recipes import Recipe
from grains_eval.report.html import render_curves
from grains_eval.steering import check_layer
from grains_eval.study.cache import AttributionCache, build_context_with_cache
from grains_eval.study.development_set import DevelopmentSet, development_set
from grains_eval.study.methods import harmless
from grains_eval.study.provenance import weights_fingerprint
from grains_eval.study.session import OutputFolder, Session
from grains_eval.study.sweep_page import point_numbers, setting_values, sweep_page
from grains_eval.study.tune import Choice, choose, curve, grid, measured
from grains_eval.study.unfinished import claimed
from grains_eval.types import FoundTokens, TokenConfig
from grains_eval.vectors import METHODS, BuildContext, run_method
from grains_eval.vectors.found_tokens import BuiltTokens
from grains_eval.virtual_tokens.merging import resolve_tokens

FILES = ("sweep.json", "sweep.csv", "sweep.html")
# of found tokens, logs of multiplicities: a third of a token, one, three, seven
TOKEN_STRENGTHS = (-1.0, 0.0, 1.1, 2.0)


@dataclass(frozen=True)
class SweepResult:
    """Curves of one sweep.

    Attributes:
        choices: The chosen setting and its curve, by what was varied (`top_k=5, examples=50`).
        best: Key of the best-ranked choice.
    """

    choices: Mapping[str, Choice]
    best: str


@dataclass(frozen=True)
class SweepGrid:
    """What a sweep tries; the grid is the product.

    Attributes:
        layers: Layers, each alone; None as for `auto`.
        strengths: Strengths; None takes the recipe's grid.
        top_k: Numbers of selected tokens; None takes the recipe's. Not of found tokens.
        examples: Numbers of build examples; the smaller sets are parts of the larger. None takes the recipe's.
        tokens: Of found tokens: numbers of virtual tokens; None takes the recipe's.
        distances: Of found tokens: tokens back to them; None takes those that they were found at.
    """

    layers: Sequence[int] | None = None
    strengths: Sequence[float] | None = None
    top_k: Sequence[int] | None = None
    examples: Sequence[int] | None = None
    tokens: Sequence[int] | None = None
    distances: Sequence[int] | None = None


def sweep(recipe: Recipe, session: Session, output: OutputFolder, tried: SweepGrid) -> SweepResult:
    """Measure settings on development items and choose one under the preservation constraint.

    Args:
        recipe: The behaviour.
        session: The model, the user's tasks, console and progress display.
        output: Folder for `sweep.json`, `sweep.csv` and `sweep.html`.
        tried: The settings.

    Raises:
        GrainsError: no development examples, a layer the model lacks, files in the way, or another process works on
            the folder.
    """
    folder = output.path
    if not output.overwrite and (found := finished(folder, FILES)):
        raise GrainsError(f"'{folder / found[0]}' exists; choose another --output_path or pass --overwrite")
    if not recipe.data.development:
        raise GrainsError("a sweep needs development examples; set data.development above 0")
    with claimed(folder):
        return _sweep(recipe, session, folder, tried)


def _sweep(recipe: Recipe, session: Session, folder: Path, tried: SweepGrid) -> SweepResult:
    """`sweep` in a folder that is this process's alone."""
    makes_tokens = pick(METHODS, recipe.vectors.method, METHODS.what).makes == "tokens"
    for name in ("top_k",) if makes_tokens else ("tokens", "distances"):
        if getattr(tried, name) is not None:
            raise GrainsError(f"--{name} does not apply to method {recipe.vectors.method}; leave it out")
    session = session.opened()
    loaded = session.loaded
    for layer in tried.layers or ():
        check_layer(layer, len(find_layers(loaded.model)))
    counts = tried.examples or [recipe.data.examples]
    data = recipe.data.model_copy(update={"examples": max(counts)})
    drawn = load_examples(data, loaded, session.include_path)
    development = development_set(loaded, drawn.development, recipe, session.include_path)
    cache = AttributionCache(folder / "attributions.partial", recipe.seed, weights_fingerprint(loaded.model))
    choices: dict[str, Choice] = {}
    for count in counts:
        part = Examples(drawn.build[:count], drawn.development)
        if makes_tokens:
            context = build_context_with_cache(loaded, part.build, recipe, cache, session.progress)
            found = _choose_tokens(context, development, tried)
            choices |= {f"{name}, examples={count}": choice for name, choice in found.items()}
            continue
        for k in tried.top_k or [recipe.attribution.top_k]:
            opened = {"steering": {"layers": "auto", "strength": "auto"}, "attribution": {"top_k": k}}
            context = build_context_with_cache(
                loaded, part.build, recipe.variant("sweep", opened), cache, session.progress
            )
            choices[f"top_k={k}, examples={count}"] = _choose(context, development, tried)
    best = max(choices, key=lambda name: choices[name].point.rank)
    with written_together(folder, _files(choices, best, development)):
        shutil.rmtree(cache.folder, ignore_errors=True)  # before anything says that the sweep is done
    if session.console is not None:
        _print(session.console, choices, best, folder)
    return SweepResult(choices, best)


def _choose(context: BuildContext, development: DevelopmentSet, tried: SweepGrid) -> Choice:
    """Build one set of vectors and measure every setting of it."""
    vectors = run_method(context).vectors
    settings = grid(vectors, context.recipe, tried.layers, tried.strengths)
    points = curve(context.loaded, vectors, development, settings, context.progress)
    return choose(points, context.recipe.evaluation)


def _choose_tokens(context: BuildContext, development: DevelopmentSet, tried: SweepGrid) -> Mapping[str, Choice]:
    """Find tokens once and measure every setting of them."""
    built: BuiltTokens = METHODS[context.recipe.vectors.method].function(context, harmless(context, development))
    return token_choices(context, built.tokens, development, tried)


def token_choices(
    context: BuildContext, found: FoundTokens, development: DevelopmentSet, tried: SweepGrid
) -> Mapping[str, Choice]:
    """The chosen strength and its curve for every number of virtual tokens and distance.

    Args:
        context: The build that found the tokens.
        found: The tokens.
        development: What is measured on.
        tried: The settings; layers see the tokens each alone, by default all together.

    Raises:
        GrainsError: a setting that the tokens or the model do not have.
    """
    off = TokenConfig(strength=-inf)
    places = [found.recommended.layers] if tried.layers is None else [(layer,) for layer in tried.layers]
    choices: dict[str, Choice] = {}
    for count in tried.tokens or [found.recommended.tokens]:
        for distance in tried.distances or [found.recommended.distance]:
            settings = [
                TokenConfig(place, strength, count, distance)
                for place in places
                for strength in tried.strengths or TOKEN_STRENGTHS
            ]
            if any(setting.strength == -inf for setting in settings):
                raise GrainsError("strength -inf is the plain model, which every sweep measures; leave it out")
            resolved = [resolve_tokens(found, setting) for setting in settings]
            for setting, one in zip(settings, resolved, strict=True):
                artifact = Artifact("found_tokens", None, None, None, {}, found)
                check_artifact(context.loaded.model, AppliedArtifact("found tokens", artifact, setting, one))
            configurations = [(), *((one,) if one is not None else () for one in resolved)]
            points = measured(context.loaded, development, [off, *settings], configurations, context.progress)
            name = f"tokens={count}, distance={'as found' if distance is None else distance}"
            choices[name] = choose(points, context.recipe.evaluation)
    return choices


def _print(console: Any, choices: Mapping[str, Choice], best: str, folder: Path) -> None:
    for name, choice in choices.items():
        console.print(table(name, choice))
    config = choices[best].config
    layers = "all" if config.layers is None else "/".join(map(str, config.layers))
    console.print(f"chosen: {best}, layers={layers}, strength={config.strength:g}: {choices[best].reason}")
    section = "vectors.options" if isinstance(config, TokenConfig) else "steering"
    console.print(f"fix it in the recipe's {section} section, or give layers= and strength= to grains_hf")
    console.print(f"curves: {folder / 'sweep.html'}")


def table(name: str, choice: Choice) -> Table:
    """One curve for the terminal; the chosen point is marked."""
    shown = Table(title=name, caption=choice.reason)
    unsteered = choice.points[0]
    changes = ("Δ log p(y+)", "Δ log p(y−)")
    for column in ("layer", "strength", "accuracy", "95 % interval", "margin (nats)", *changes, "preserved", ""):
        shown.add_column(column, justify="left" if column in {"layer", ""} else "right")
    for index, point in enumerate(choice.points):
        layers = (
            "–" if index == 0 else "all" if point.config.layers is None else ", ".join(map(str, point.config.layers))
        )
        shown.add_row(
            layers,
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


def _files(choices: Mapping[str, Choice], best: str, development: DevelopmentSet) -> dict[str, str]:
    """What a sweep writes, by name."""
    rows = [
        {"varied": name, **point_numbers(point, choice)} for name, choice in choices.items() for point in choice.points
    ]
    summary = {
        "chosen": {"varied": best, **setting_values(choices[best].config), "reason": choices[best].reason},
        "notes": list(development.notes),
        "points": rows,
    }
    page = render_curves(sweep_page(choices, best, development.notes))
    lines = StringIO()
    writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return {"sweep.json": json.dumps(summary, indent=2) + "\n", "sweep.html": page, "sweep.csv": lines.getvalue()}
