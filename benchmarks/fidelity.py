"""Does the fidelity of attributions predict what steering by them gains?

    python -m benchmarks.fidelity --output benchmarks/results/fidelity.json
    python -m benchmarks.fidelity --worlds images --output benchmarks/results/fidelity_images.json

GrAInS is built on each bundled world from several draws of examples, by every attribution method and by random scores,
at the settings of the world's recipe. Fidelity is measured as a build's card does, for text and image tokens apart; the
gain is the change of accuracy on cue-free questions of test towns or rooms, for images also with the paper's top-k in
place of the recipe's selection. Rows give Spearman's correlation over the builds of a world, and within worlds over all
of them (ranks taken in each world), with a permutation p. The builds of a world go to `--runs` and are taken from there
where they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import common, image_seeds
from benchmarks.demo_seeds import TASKS, measure, open_trial
from grains_eval.attribution.fidelity import MEASURES
from grains_eval.demo import model_path
from grains_eval.examples import load_examples
from grains_eval.recipes import Recipe, load_recipe
from grains_eval.study.fidelity import fidelity
from grains_eval.tasks_path import task_directory
from grains_eval.types import SteeringVectors
from grains_eval.vectors import build_context, run_method
from grains_eval.vectors.context import BuildContext

METHODS = ("integrated_gradients", "gradient", "smoothgrad", "random")
IMAGES, RECIPE = "images", "recipe"
TEXT = ("split", "shared", "faithfulness")
RUNS = Path(__file__).parent / "results" / "fidelity"


@dataclass(frozen=True)
class World:
    """A trained world: a build from a draw of examples by an attribution method, and accuracy with vectors or without.

    Attributes:
        context: From a draw, an attribution method and a number of examples to a build.
        right: From vectors or None to 1.0 per test question that is right.
        selections: Which tokens are masked: settings of `attribution` besides the recipe's own.
    """

    context: Callable[[int, str, int], BuildContext]
    right: Callable[[SteeringVectors | None], Sequence[float]]
    selections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])


def open_text(kind: str) -> World:
    """A bundled text world."""
    name = TASKS[kind]
    one = open_trial(kind, 0, model_path(name), task_directory() / "demo" / name / "data")

    def context(draw: int, method: str, examples: int) -> BuildContext:
        recipe = drawn(one.recipe, draw, method, examples)
        return build_context(one.loaded, load_examples(recipe.data, one.loaded).build, recipe)

    return World(context, lambda vectors: measure(one, vectors, one.setting, one.test))


def open_images() -> World:
    """The bundled image world."""
    recipe = load_recipe(task_directory() / "demo" / "image" / "recipe.yaml")
    one = image_seeds.open_trial(0, recipe, model_path("image"))

    def context(draw: int, method: str, examples: int) -> BuildContext:
        found = image_seeds.examples(one.world, examples, draw)
        return build_context(one.loaded, found, drawn(recipe, draw, method, examples))

    setting = image_seeds.fixed_setting(recipe)
    # by the recipe's own selection nearly every build answers all questions
    selections = {"top_k": recipe.methods["grains_top_k"]["attribution"]}
    return World(context, lambda vectors: one.right(vectors, setting), selections)


def drawn(recipe: Recipe, draw: int, method: str, examples: int) -> Recipe:
    """The recipe with another draw of so many examples, attributed by another method."""
    return recipe.model_copy(
        update={
            "seed": draw,
            "data": recipe.data.model_copy(update={"seed": draw, "examples": examples}),
            "attribution": recipe.attribution.model_copy(update={"method": method}),
        }
    )


def builds(name: str, draws: Sequence[int], examples: int) -> Iterator[list[dict[str, Any]]]:
    """Fidelity and gain of every build on one world: per draw, rows by attribution method, selection and tokens."""
    world = open_images() if name == IMAGES else open_text(name)
    before = mean(world.right(None))
    for draw in draws:
        rows = list[dict[str, Any]]()
        for method in METHODS:
            context = world.context(draw, method, examples)
            built = run_method(context)
            gains = {RECIPE: mean(world.right(built.vectors)) - before}
            known = {each.example_id: each for each in built.attributions}
            context = replace(context, attribute=lambda one, _, known=known: known[one.example.id])
            for selection, changes in world.selections.items():
                other = run_method(context.with_attribution(**changes)).vectors
                gains[selection] = mean(world.right(other)) - before
            for tokens, found in fidelity(context, built.attributions).items():
                measures = {each: found[each]["difference"] for each in MEASURES}
                same = {"world": name, "draw": draw, "attribution": method, "tokens": tokens, **measures}
                rows += [{**same, "selection": selection, "gain": gain} for selection, gain in gains.items()]
        for row in rows:
            print(json.dumps(row), flush=True)
        yield rows


def known_builds(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The builds of one world; draws that were not measured before are measured now."""
    file: Path = arguments.runs / f"{name}.json"
    if arguments.smoke:
        return [row for rows in builds(name, range(arguments.draws), arguments.examples) for row in rows]
    known: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    missing = [draw for draw in range(arguments.draws) if all(row["draw"] != draw for row in known)]
    for rows in builds(name, missing, arguments.examples) if missing else ():
        known += rows
        arguments.runs.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return [row for row in known if row["draw"] < arguments.draws]


def correlations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per kind of tokens and selection (said where there are images), measure and set of builds."""
    found = list[dict[str, Any]]()
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    real = [row for row in rows if row["attribution"] != "random"]
    for tokens, selection in dict.fromkeys((row["tokens"], row["selection"]) for row in rows):
        said = {"tokens": tokens, "selection": selection} if IMAGES in worlds else {}
        for label, those in (("all builds", rows), ("without random scores", real)):
            some = [row for row in those if (row["tokens"], row["selection"]) == (tokens, selection)]
            own = [world for world in worlds if any(row["world"] == world for row in some)]
            for measured in MEASURES:
                cells = {world: _spearman([row for row in some if row["world"] == world], measured) for world in worlds}
                within, p = _within(some, own, measured)
                cells = {world: "" if cell is None else cell for world, cell in cells.items()}
                pooled = {"within worlds": within, "p": p} if len(worlds) > 1 else {"p": p}
                found.append({**said, "builds": f"{label} ({len(some)})", "measure": measured, **cells, **pooled})
    return found


def _spearman(rows: Sequence[dict[str, Any]], measured: str) -> float | None:
    left, right = ([row[name] for row in rows] for name in (measured, "gain"))
    if len(set(left)) < 2 or len(set(right)) < 2:
        return None
    return round(float(stats.spearmanr(left, right).statistic), 2)


def _within(rows: Sequence[dict[str, Any]], worlds: Sequence[str], measured: str) -> tuple[float, float]:
    """Correlation of the ranks that builds have in their own world; p by permuting gains within worlds."""
    pairs = []
    for world in worlds:
        own = [row for row in rows if row["world"] == world]
        ranks = [stats.rankdata([row[name] for row in own]) for name in (measured, "gain")]
        pairs.append([each - each.mean() for each in ranks])

    def together(gains: Sequence[np.ndarray]) -> float:
        left = np.concatenate([pair[0] for pair in pairs])
        right = np.concatenate(gains)
        return float(left @ right / np.sqrt((left @ left) * (right @ right)))

    seen = together([pair[1] for pair in pairs])
    random = np.random.default_rng(0)
    shuffled = [together([random.permutation(pair[1]) for pair in pairs]) for _ in range(9999)]
    p = (1 + sum(abs(each) >= abs(seen) - 1e-12 for each in shuffled)) / (1 + len(shuffled))
    return round(seen, 2), round(p, 4)


def main() -> None:
    """Build, measure, correlate."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--worlds", nargs="+", choices=(*TEXT, IMAGES), default=TEXT)
    parser.add_argument("--runs", type=Path, default=RUNS, help="builds of each world, taken up again")
    parser.add_argument("--draws", type=int, default=4, help="draws of build examples per world")
    parser.add_argument("--examples", type=int, default=50)
    arguments = parser.parse_args()
    common.start(arguments)
    if arguments.smoke:
        arguments.worlds, arguments.draws, arguments.examples = ["split", IMAGES], 1, 8
    rows = [row for name in arguments.worlds for row in known_builds(name, arguments)]
    common.report("fidelity", correlations(rows), arguments)


if __name__ == "__main__":
    main()
