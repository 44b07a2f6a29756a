"""Does the image demo hold on fresh worlds? Load or train one per seed, build, steer, compare with controls.

    python -m benchmarks.image_seeds --models DIR --seeds 201 202 203 204 205

Everything is fixed in advance by `tasks/demo/image/recipe.yaml`, chosen on seed 0 alone. Accuracy is over
cue-free questions whose image contradicts what is usual, in rooms that no vector was built on. `blank` is
the same without the pictured thing: what is left there is preference for words, not sight.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import common
from benchmarks.worlds.image_model import Source, accuracy, choice_log_probs
from benchmarks.worlds.image_world import (
    ImageWorld,
    Item,
    build_items,
    make_world,
    read_scene,
    sight_items,
    task_items,
    text_items,
)
from benchmarks.worlds.train_image import train_to_folder
from grains_eval.attribution import attribute
from grains_eval.demo.scenes import BACKGROUND, image
from grains_eval.models import LoadedModel, load
from grains_eval.recipes import Recipe, load_recipe
from grains_eval.steering import steered
from grains_eval.tasks_path import task_directory
from grains_eval.types import Attribution, PreferenceExample, SteeringConfig, SteeringVectors
from grains_eval.vectors import build_context, run_method
from grains_eval.vectors.context import BuildContext
from grains_eval.vectors.controls import negate, project_out, random_like


@dataclass(frozen=True)
class Trial:
    """A trained world with its build in progress; one attribution serves every method."""

    world: ImageWorld
    loaded: LoadedModel
    context: BuildContext
    test: list[Item]
    skills: list[Item]

    def built(self, method: str = "grains", seed: int | None = None, **changes: object) -> SteeringVectors:
        """Run a vector method with some keys of the recipe's `attribution` section changed."""
        context = self.context.with_attribution(**changes)
        section = context.recipe.vectors.model_copy(update={"method": method})
        update: dict[str, Any] = {"vectors": section}
        if seed is not None:  # another draw of the random tokens
            context = replace(context, attribute=lambda one, config: attribute(self.loaded, one, config, seed))
        return run_method(replace(context, recipe=context.recipe.model_copy(update=update))).vectors

    def rebuilt(self, visual_baseline: str, mask: str) -> BuildContext:
        """The same build with another visual baseline and mask; nothing is remembered from this one."""
        recipe = self.context.recipe
        update: dict[str, Any] = {
            "attribution": recipe.attribution.model_copy(update={"visual_baseline": visual_baseline}),
            "vectors": recipe.vectors.model_copy(update={"mask": mask}),
        }
        return build_context(
            self.loaded, [each.example for each in self.context.examples], recipe.model_copy(update=update)
        )

    def right(self, vectors: SteeringVectors | None, setting: SteeringConfig, source: Source = "own") -> list[float]:
        """1.0 per test question whose pictured answer is the likeliest."""
        rows = self._steered(vectors, setting, self.test, source)
        gold = [item["gold"] for item in self.test]
        return [float(max(range(4), key=row.__getitem__) == one) for row, one in zip(rows, gold, strict=True)]

    def skill(self, vectors: SteeringVectors | None, setting: SteeringConfig) -> float:
        """Accuracy on questions that steering should leave alone."""
        return accuracy(self._steered(vectors, setting, self.skills, "own"), self.skills)

    def _steered(
        self,
        vectors: SteeringVectors | None,
        setting: SteeringConfig,
        items: Sequence[Item],
        source: Source,
    ) -> list[list[float]]:
        model: Any = self.loaded.model
        processor: Any = self.loaded.processor
        with steered(model, vectors, setting) if vectors else nullcontext():
            return choice_log_probs(model, processor, items, source, self.world.background)


def build_questions(world: ImageWorld, count: int, draw: int = 0) -> list[Item]:
    """The build items that vectors are made from; another set of them for every `draw`."""
    items = build_items(world, 4)
    Random(draw).shuffle(items)
    return items[:count]


def examples(world: ImageWorld, count: int, draw: int = 0) -> list[PreferenceExample]:
    """Build questions: what is pictured is chosen, what is usual is rejected."""
    return [
        PreferenceExample(
            id=item["id"],
            doc_hash=item["id"],
            prompt=f"<image> {item['prompt']}",
            chosen=f" {item['choices'][item['gold']]}",
            rejected=f" {item['choices'][item['rejected']]}",
            images=(image(read_scene(item), item["noise"], world.background),),
            cluster=item["cluster"],
        )
        for item in build_questions(world, count, draw)
    ]


def fixed_setting(recipe: Recipe) -> SteeringConfig:
    """The setting that the recipe fixes in advance."""
    section = recipe.steering
    assert isinstance(section.layers, list) and isinstance(section.strength, float)
    return SteeringConfig(tuple(section.layers), section.strength, section.unit, section.operator, section.positions)


def trial(seed: int, recipe: Recipe, models: Path, background: int = BACKGROUND) -> Trial:
    """Load the world's folder, trained first where it is missing."""
    folder = models / (f"image_{seed}" if background == BACKGROUND else f"image_{seed}_{background}")
    if not (folder / "training.json").is_file():
        train_to_folder("split", seed, folder, background=background, keep_failures=True)
    return open_trial(seed, recipe, folder, background)


def open_trial(seed: int, recipe: Recipe, folder: Path, background: int = BACKGROUND) -> Trial:
    """A trained model's folder, and the world that it was trained on."""
    trained = json.loads((folder / "training.json").read_text(encoding="utf-8")).get("background", BACKGROUND)
    if trained != background:
        raise SystemExit(f"'{folder}' was trained on background {trained}, not {background}; give another --models")
    world = make_world("split", seed, background)
    loaded = load({"pretrained": str(folder), "dtype": "float32", "device": "cpu"})
    context = build_context(loaded, examples(world, recipe.data.examples), recipe)
    integrated: dict[int, Attribution] = {}

    def remembered(example: Any, config: Any) -> Attribution:
        if config.method != recipe.attribution.method:  # the random control
            return context.attribute(example, config)
        if id(example) not in integrated:
            integrated[id(example)] = context.attribute(example, config)
        return integrated[id(example)]

    skills = sight_items(world, 32) + text_items(world)
    return Trial(world, loaded, replace(context, attribute=remembered), task_items(world)["test"], skills)


def methods(one: Trial, draws: int) -> Mapping[str, Callable[[], list[SteeringVectors]]]:
    """Rows of the table; random controls are averaged over several draws."""
    own, vocabulary = one.built(), one.built("vocabulary")
    return {
        "agreement, joint": lambda: [own],
        "agreement, text": lambda: [one.built(modality="text")],
        "agreement, image": lambda: [one.built(modality="image")],
        "top_k 2, joint": lambda: [one.built(selection="top_k", top_k=2)],
        "vocabulary": lambda: [vocabulary],
        "agreement, vocabulary projected out": lambda: [project_out(own, vocabulary)],
        f"random tokens, {draws} draws": lambda: [one.built("random_tokens", seed) for seed in range(draws)],
        f"random vector, {draws} draws": lambda: [random_like(own, seed) for seed in range(draws)],
        "negated": lambda: [negate(own)],
    }


def main() -> None:
    """Load or train, build, measure, print."""
    parser = common.parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=Path, required=True, help="folders image_SEED; missing ones are trained")
    parser.add_argument("--seeds", nargs="+", type=int, default=[201, 202, 203, 204, 205])
    parser.add_argument("--draws", type=int, default=5, help="random tokens and vectors of equal norm")
    arguments = parser.parse_args()
    common.start(arguments)
    recipe = load_recipe(task_directory() / "demo" / "image" / "recipe.yaml")
    setting = fixed_setting(recipe)
    scores: dict[str, list[list[float]]] = {}
    blank: dict[str, list[float]] = {}
    skills: dict[str, list[float]] = {}
    clusters: list[str] = []
    for seed in arguments.seeds[:1] if arguments.smoke else arguments.seeds:
        one = trial(seed, recipe, arguments.models)
        clusters += [f"{seed} {item['cluster']}" for item in one.test]
        unsteered: dict[str, Callable[[], Sequence[SteeringVectors | None]]] = {"unsteered": lambda: [None]}
        for name, make in {**unsteered, **methods(one, 2 if arguments.smoke else arguments.draws)}.items():
            found = make()
            several = [one.right(vectors, setting) for vectors in found]
            scores.setdefault(name, []).append([statistics.mean(each) for each in zip(*several, strict=True)])
            blank.setdefault(name, []).append(statistics.mean(one.right(found[0], setting, "blank")))
            skills.setdefault(name, []).append(statistics.mean(one.skill(vectors, setting) for vectors in found))
    rows: list[dict[str, Any]] = []
    flat = {name: [score for seed in values for score in seed] for name, values in scores.items()}
    for name, values in scores.items():
        worlds = [cluster.partition(" ")[0] for cluster in clusters]
        gained = common.change(flat["unsteered"], flat[name], worlds, clusters)
        rows.append(
            {
                "method": name,
                "accuracy": round(statistics.mean(flat[name]), 3),
                "per seed": " ".join(f"{statistics.mean(seed):.2f}" for seed in values),
                **(dict.fromkeys(gained, "") if name == "unsteered" else gained),
                "blank": round(statistics.mean(blank[name]), 3),
                "skills": round(statistics.mean(skills[name]), 3),
            }
        )
    common.report("image_seeds", rows, arguments)


if __name__ == "__main__":
    main()
