"""Which visual baseline finds the cause? Every `attribution.visual_baseline` and both masks, on fresh worlds.

    python -m benchmarks.visual_baseline --models DIR --seeds 301 302 303 --backgrounds 128 176

The blank baseline paints grey 128, which is what the images of these worlds stand on by default; so each seed is
trained on another background too. Every build question holds one cue for either answer, in words or as a stamp in the
image, and the table counts how often the selected tokens are the cues. Everything else is as
`tasks/demo/image/recipe.yaml` fixes it, accuracy at its one setting included.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.image_seeds import Trial, build_questions, fixed_setting, trial
from benchmarks.worlds.image_words import CUE_STAMPS, CUE_WORDS
from benchmarks.worlds.image_world import Item, read_scene
from grains_eval.demo.scenes import BACKGROUND
from grains_eval.models import EncodedExample
from grains_eval.models.vision import VISUAL_BASELINES
from grains_eval.recipes import load_recipe
from grains_eval.tasks_path import task_directory
from grains_eval.types import TokenSelection
from grains_eval.vectors import run_method

# baseline and mask; a pixel mask greys the image, so that its baseline serves the attribution alone
OPTIONS = (*((name, "token") for name in VISUAL_BASELINES), ("blank", "pixel"), ("position_mean", "pixel"))


def cue(item: Item, encoded: EncodedExample, kind: str) -> tuple[int, bool]:
    """Position of the item's one cue of a kind in the prompt, and whether it is in the image."""
    visual = encoded.is_image.nonzero()[:, 0].tolist()
    stamped = [visual[mark.cell] for mark in read_scene(item) if mark.shape == CUE_STAMPS[kind]]
    spoken = [index for index, token in enumerate(encoded.tokens) if token in CUE_WORDS[kind]]
    (position,) = stamped + spoken
    return position, bool(stamped)


def found(items: Sequence[Item], examples: Sequence[EncodedExample], chosen: Sequence[TokenSelection]) -> list[Any]:
    """Per example and side: whether the cue is selected, and whether it is in the image."""
    rows: list[tuple[bool, bool]] = []
    for item, example, selection in zip(items, examples, chosen, strict=True):
        for kind, side in (("truth", selection.positive), ("myth", selection.negative)):
            position, pictured = cue(item, example, kind)
            rows.append((position in side, pictured))
    return rows


def measure(one: Trial, items: Sequence[Item], baseline: str, mask: str, setting: Any) -> Mapping[str, list[Any]]:
    """Build once and measure: cues found, gaps and nodes of the attributions, answers of the steered model."""
    context = one.rebuilt(visual_baseline=baseline, mask=mask)
    built = run_method(context)
    return {
        "cues": found(items, context.examples, built.selections),
        "gaps": [each.completeness_error for each in built.attributions],
        "nodes": [each.steps for each in built.attributions],
        "right": one.right(built.vectors, setting),
        "skills": [one.skill(built.vectors, setting)],
    }


def main() -> None:
    """Load or train, build with every option, print."""
    parser = common.parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=Path, required=True, help="image_SEED or image_SEED_BACKGROUND; else trained")
    parser.add_argument("--seeds", nargs="+", type=int, default=[301, 302, 303])
    parser.add_argument("--backgrounds", nargs="+", type=int, default=[BACKGROUND, 176])
    parser.add_argument(
        "--options", nargs="+", default=[f"{name}/{mask}" for name, mask in OPTIONS], help="baseline/mask, of these"
    )
    arguments = parser.parse_args()
    common.start(arguments)
    recipe = load_recipe(task_directory() / "demo" / "image" / "recipe.yaml")
    setting = fixed_setting(recipe)
    chosen = [option for option in OPTIONS if "/".join(option) in arguments.options]
    seeds, options = (arguments.seeds[:1], chosen[:1]) if arguments.smoke else (arguments.seeds, chosen)
    rows: list[dict[str, Any]] = []
    for background in arguments.backgrounds:
        measured: dict[tuple[str, str], list[Mapping[str, list[Any]]]] = {option: [] for option in options}
        for seed in seeds:
            one = trial(seed, recipe, arguments.models, background)
            items = build_questions(one.world, recipe.data.examples)
            for option in options:
                measured[option].append(measure(one, items, *option, setting))
        for (baseline, mask), several in measured.items():
            right = [score for each in several for score in each["right"]]
            cues = [hit for each in several for hit in each["cues"]]
            rows.append(
                {
                    "background": background,
                    "visual_baseline": baseline,
                    "mask": mask,
                    "cues found": round(statistics.mean(hit for hit, _ in cues), 3),
                    "in the image": round(statistics.mean(hit for hit, pictured in cues if pictured), 3),
                    "per seed": " ".join(f"{statistics.mean(hit for hit, _ in each['cues']):.2f}" for each in several),
                    "accuracy": round(statistics.mean(right), 3),
                    "accuracies": " ".join(f"{statistics.mean(each['right']):.2f}" for each in several),
                    "skills": round(statistics.mean(skill for each in several for skill in each["skills"]), 3),
                    "gap": f"{100 * statistics.median(gap for each in several for gap in each['gaps']):.2f} %",
                    "nodes": round(statistics.mean(node for each in several for node in each["nodes"]), 1),
                }
            )
    common.report("visual_baseline", rows, arguments)


if __name__ == "__main__":
    main()
