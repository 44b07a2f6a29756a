"""What does each departure from the paper change? Builds on the bundled text worlds, one key set back at a time.

    python -m benchmarks.departures

Every row is at the recipe's layer and strength, which were chosen on this seed with everything as it is here; of fresh
worlds `benchmarks.demo_seeds` and `benchmarks.methods` tell. `gap` is the median relative completeness error of the
attributions, `gap over 5 %` the share of examples above it; `nodes` is the mean number of quadrature nodes.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks import common
from benchmarks.demo_seeds import TASKS, Trial, measure, open_trial
from grains_eval.demo import model_path
from grains_eval.examples import load_examples
from grains_eval.tasks_path import task_directory
from grains_eval.vectors import build_context, run_method

# what is set back: keys of the recipe's attribution and vectors sections, and of the setting
ROWS: Mapping[str, Mapping[str, Any]] = {
    "as here": {},
    "zero baseline and mask": {"attribution": {"baseline": "zero"}},
    "20 nodes, never doubled": {"attribution": {"steps": 20, "max_steps": 20}},
    "first centred component": {"vectors": {"direction": "pca"}},
    "absolute strength 1": {"setting": {"unit": "absolute"}},
    "every token a candidate": {"attribution": {"max_document_frequency": 1.0}},
}


def main() -> None:
    """Build, steer, print."""
    arguments = common.parser((__doc__ or "").splitlines()[0]).parse_args()
    common.start(arguments)
    rows: list[dict[str, Any]] = []
    for kind in ("split",) if arguments.smoke else ("split", "shared"):
        world = TASKS[kind]
        one = open_trial(kind, 0, model_path(world), task_directory() / "demo" / world / "data")
        if arguments.smoke:
            few = one.recipe.data.model_copy(update={"examples": 4})
            one = replace(one, recipe=one.recipe.model_copy(update={"data": few}))
        rows += [{"world": kind, "set back": name, **_row(one, keys)} for name, keys in ROWS.items()]
    common.report("departures", rows, arguments)


def _row(one: Trial, keys: Mapping[str, Any]) -> dict[str, Any]:
    sections = {
        name: getattr(one.recipe, name).model_copy(update=keys.get(name, {})) for name in ("attribution", "vectors")
    }
    recipe = one.recipe.model_copy(update=sections)
    built = run_method(build_context(one.loaded, load_examples(recipe.data, one.loaded).build, recipe))
    setting = replace(one.setting, **keys.get("setting", {}))
    gaps = [each.completeness_error for each in built.attributions]
    return {
        "accuracy": round(statistics.mean(measure(one, built.vectors, setting, one.test)), 3),
        "skills": round(statistics.mean(measure(one, built.vectors, setting, one.skills)), 3),
        "gap": f"{100 * statistics.median(gaps):.2f} %",
        "gap over 5 %": f"{100 * statistics.mean(gap > 0.05 for gap in gaps):.0f} %",
        "nodes": round(statistics.mean(each.steps for each in built.attributions), 1),
    }


if __name__ == "__main__":
    main()
