"""Does the fidelity of attributions predict what steering by them gains?

    python -m benchmarks.fidelity --output benchmarks/results/fidelity.json

GrAInS is built on each bundled text world from several draws of examples, by every attribution method and by random
scores, at the settings of the world's recipe; fidelity is measured as a build's card does, the gain as the change of
accuracy on cue-free questions of test towns. Rows give Spearman's correlation over the builds of a world, and within
worlds over all of them (ranks taken in each world), with a permutation p.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import common
from benchmarks.demo_seeds import TASKS, Trial, measure, open_trial
from grains_eval.attribution.fidelity import MEASURES
from grains_eval.demo.run import demo_model_args
from grains_eval.examples import load_examples
from grains_eval.study.fidelity import fidelity
from grains_eval.tasks_path import task_directory
from grains_eval.vectors import build_context, run_method

METHODS = ("integrated_gradients", "gradient", "smoothgrad", "random")


def builds(kind: str, draws: int, examples: int) -> list[dict[str, Any]]:
    """Fidelity and gain of every build on one world."""
    name = TASKS[kind]
    folder = Path(demo_model_args(name)["pretrained"])
    one = open_trial(kind, 0, folder, task_directory() / "demo" / name / "data")
    before = mean(measure(one, None, one.setting, one.test))
    rows = list[dict[str, Any]]()
    for draw, method in itertools.product(range(draws), METHODS):
        recipe = one.recipe.model_copy(
            update={
                "seed": draw,
                "data": one.recipe.data.model_copy(update={"seed": draw, "examples": examples}),
                "attribution": one.recipe.attribution.model_copy(update={"method": method}),
            }
        )
        rows.append({"world": kind, "draw": draw, "attribution": method, **_build(one, recipe, before)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def _build(one: Trial, recipe: Any, before: float) -> dict[str, float]:
    context = build_context(one.loaded, load_examples(recipe.data, one.loaded).build, recipe)
    built = run_method(context)
    found = fidelity(context, built.attributions)["text"]
    gain = mean(measure(one, built.vectors, one.setting, one.test)) - before
    return {**{name: found[name]["difference"] for name in MEASURES}, "gain": gain}


def correlations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per measure and set of builds."""
    found = list[dict[str, Any]]()
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    for label, some in (
        ("all builds", list(rows)),
        ("without random scores", [row for row in rows if row["attribution"] != "random"]),
    ):
        for measured in MEASURES:
            cells = {world: _spearman([row for row in some if row["world"] == world], measured) for world in worlds}
            within, p = _within(some, worlds, measured)
            found.append(
                {"builds": f"{label} ({len(some)})", "measure": measured, **cells, "within worlds": within, "p": p}
            )
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
    parser.add_argument("--worlds", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--draws", type=int, default=4, help="draws of build examples per world")
    parser.add_argument("--examples", type=int, default=50)
    arguments = parser.parse_args()
    common.start(arguments)
    if arguments.smoke:
        arguments.worlds, arguments.draws, arguments.examples = ["split"], 1, 8
    rows = [row for kind in arguments.worlds for row in builds(kind, arguments.draws, arguments.examples)]
    common.report("fidelity", correlations(rows), arguments)


if __name__ == "__main__":
    main()
