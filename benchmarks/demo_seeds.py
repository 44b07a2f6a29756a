"""Do the text demos hold on fresh worlds? Train or reuse one per seed, build, steer, compare with controls.

    python -m benchmarks.demo_seeds --models DIR --worlds split shared faithfulness --seeds 101 102 103

Everything is fixed in advance by `tasks/demo/<world>/recipe.yaml`, chosen on seed 0 alone. The column `tuned`
lets a method, the vocabulary control above all, choose layer and strength on items of the build and
development towns of its own world. Accuracy is over cue-free questions on test towns, which are in neither.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.worlds.scoring import right
from benchmarks.worlds.text_world import Item, fact_items, make_world
from benchmarks.worlds.tokenizers import is_chat
from benchmarks.worlds.train_text import train_to_folder
from grains_eval.demo.loaders import read_items
from grains_eval.examples import load_examples
from grains_eval.models import LoadedModel, load
from grains_eval.recipes import Data, Recipe, load_recipe
from grains_eval.steering import steered
from grains_eval.tasks_path import task_directory
from grains_eval.types import SteeringConfig, SteeringVectors
from grains_eval.vectors import build
from grains_eval.vectors.controls import negate, project_out, random_like

TASKS = {"split": "text_split", "shared": "text_shared", "faithfulness": "faithfulness"}
TASKS |= dict.fromkeys(("paired", "chat"), TASKS["shared"])
STRENGTHS = (0.5, 1.0, 1.5, 2.0)
MOST_SKILL_LOST = 0.03


@dataclass(frozen=True)
class Trial:
    """A trained world: what a vector is built on, chosen on and measured on."""

    loaded: LoadedModel
    recipe: Recipe
    tuning: list[Item]
    test: list[Item]
    skills: list[Item]

    @property
    def setting(self) -> SteeringConfig:
        """The recipe's, fixed in advance."""
        section = self.recipe.steering
        return SteeringConfig(
            tuple(section.layers), section.strength, section.unit, section.operator, section.positions
        )


def trial(kind: str, seed: int, models: Path) -> Trial:
    """Load the world's folder, trained first where it is missing."""
    folder = models / f"{kind}_{seed}"
    if not (folder / "training.json").is_file():
        train_to_folder(kind, seed, folder)
    return open_trial(kind, seed, folder, folder / "tasks")


def open_trial(kind: str, seed: int, folder: Path, items: Path) -> Trial:
    """A trained model's folder and the folder of its world's items."""
    recipe = load_recipe(task_directory() / "demo" / TASKS[kind] / "recipe.yaml")
    loaded = load({"pretrained": str(folder), "dtype": "float32", "device": "cpu"})
    chat = is_chat(loaded.tokenizer)
    data = Data(
        path=str(items / "train.jsonl"),
        chosen="{{choices[gold]}}",
        rejected="{{choices[rejected]}}",
        delimiter="" if chat else " ",  # as lm-eval has it under a chat template
        chat_template=chat,
        examples=recipe.data.examples,
        development=0,
        seed=recipe.data.seed,
    )
    world = make_world(kind, seed)
    tuning = fact_items(world, "build") + fact_items(world, "development")
    test, skills = (read_items(items / f"{part}.jsonl") for part in ("test", "skills"))
    return Trial(loaded, recipe.model_copy(update={"data": data}), tuning, test, skills)


@contextmanager
def applied(one: Trial, vectors: SteeringVectors | None, setting: SteeringConfig) -> Iterator[None]:
    """Steer where there are vectors."""
    if vectors is None:
        yield
    else:
        with steered(one.loaded.model, vectors, setting):
            yield


def measure(one: Trial, vectors: SteeringVectors | None, setting: SteeringConfig, items: Sequence[Item]) -> list[float]:
    """Score items under a setting."""
    with applied(one, vectors, setting):
        return right(one.loaded.model, one.loaded.tokenizer, items)[0].tolist()


def tuned(
    one: Trial,
    vectors: SteeringVectors,
    strengths: Sequence[float] = STRENGTHS,
    score: Callable[..., Sequence[float]] | None = None,
) -> SteeringConfig:
    """The layer and strength of best accuracy on tuning items that keep every second skill question.

    Args:
        one: The world.
        vectors: What is tuned.
        strengths: To choose from, at every layer of the vectors.
        score: From vectors or None, a setting and items to 1.0 per item that is right; default: as text is scored.
    """
    score = score or partial(measure, one)
    watched = one.skills[::2]
    floor = statistics.mean(score(None, one.setting, watched)) - MOST_SKILL_LOST
    best, found = -1.0, one.setting
    for layer in vectors.layers:
        for strength in strengths:
            setting = replace(one.setting, layers=(layer,), strength=strength)
            accuracy = statistics.mean(score(vectors, setting, one.tuning))
            if accuracy > best and statistics.mean(score(vectors, setting, watched)) >= floor:
                best, found = accuracy, setting
    return found


def built(
    one: Trial, method: str = "grains", *, options: dict[str, Any] | None = None, **changes: Any
) -> SteeringVectors:
    """Build by a vector method, with some keys of the recipe's `attribution` or `vectors` section changed."""
    shared = {key: changes.pop(key) for key in ("direction", "at") if key in changes}
    sections = {
        "attribution": one.recipe.attribution.model_copy(update=changes),
        "vectors": one.recipe.vectors.model_copy(update={"method": method, "options": options or {}, **shared}),
    }
    recipe = one.recipe.model_copy(update=sections)
    return build(one.loaded, load_examples(recipe.data, one.loaded).build, recipe)


def methods(one: Trial, draws: int) -> dict[str, Callable[[], list[SteeringVectors]]]:
    """Rows of the table; random controls are averaged over several draws."""
    own = built(one)
    vocabulary = built(one, "vocabulary")
    return {
        "top_k": lambda: [built(one, selection="top_k")],
        "agreement": lambda: [built(one, selection="agreement")],
        "uncentred_pca": lambda: [built(one, direction="uncentred_pca")],
        "pca": lambda: [built(one, direction="pca")],
        "at response": lambda: [built(one, at="response")],
        "vocabulary": lambda: [vocabulary],
        "vocabulary projected out": lambda: [project_out(own, vocabulary)],
        "random tokens": lambda: [built(one, "random_tokens")],
        "negated": lambda: [negate(own)],
        f"random, {draws} draws": lambda: [random_like(own, draw) for draw in range(draws)],
    }


TUNED = ("top_k", "agreement", "vocabulary")


def main() -> None:
    """Train or reuse, build, measure, print."""
    parser = common.parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=Path, required=True, help="folders WORLD_SEED; missing ones are trained there")
    parser.add_argument("--worlds", nargs="+", choices=sorted(TASKS), default=["split", "shared"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[101, 102, 103, 104, 105])
    parser.add_argument("--draws", type=int, default=10, help="random vectors of equal norm")
    parser.add_argument("--no-tuning", action="store_true", help="leave the column `tuned` empty")
    arguments = parser.parse_args()
    common.start(arguments)
    rows: list[dict[str, Any]] = []
    for kind in arguments.worlds:
        rows += world_rows(kind, arguments.seeds[:1] if arguments.smoke else arguments.seeds, arguments)
    common.report("demo_seeds", rows, arguments)


def world_rows(kind: str, seeds: Sequence[int], arguments: Any) -> list[dict[str, Any]]:
    """One row per method: mean over the seeds, intervals of the gain, skills."""
    draws = 2 if arguments.smoke else arguments.draws
    scores: dict[str, list[list[float]]] = {}
    skills: dict[str, list[float]] = {}
    best: dict[str, list[list[float]]] = {name: [] for name in TUNED}
    clusters: list[str] = []
    for seed in seeds:
        one = trial(kind, seed, arguments.models)
        clusters += [f"{seed} {item['cluster']}" for item in one.test]
        scores.setdefault("unsteered", []).append(measure(one, None, one.setting, one.test))
        skills.setdefault("unsteered", []).append(statistics.mean(measure(one, None, one.setting, one.skills[1::2])))
        for name, make in methods(one, draws).items():
            found = make()
            several = [measure(one, vectors, one.setting, one.test) for vectors in found]
            kept = [statistics.mean(measure(one, vectors, one.setting, one.skills[1::2])) for vectors in found]
            scores.setdefault(name, []).append([statistics.mean(each) for each in zip(*several, strict=True)])
            skills.setdefault(name, []).append(statistics.mean(kept))
            if name in TUNED and not (arguments.smoke or arguments.no_tuning):
                best[name].append(measure(one, found[0], tuned(one, found[0]), one.test))

    def flat(values: Sequence[Sequence[float]]) -> list[float]:
        return [value for each in values for value in each]

    def change(values: Sequence[Sequence[float]], over: Sequence[Sequence[float]]) -> common.Row:
        return common.change(flat(over), flat(values), [cluster.partition(" ")[0] for cluster in clusters], clusters)

    rows: list[dict[str, Any]] = []
    for name, values in scores.items():
        gained, beyond = change(values, scores["unsteered"]), change(values, scores["vocabulary"])
        chosen = best.get(name)
        settled = change(chosen, best["vocabulary"]) if chosen else beyond
        rows.append(
            {
                "world": kind,
                "method": name,
                "accuracy": round(statistics.mean(flat(values)), 3),
                "per seed": " ".join(f"{statistics.mean(each):.2f}" for each in values),
                **(dict.fromkeys(gained, "") if name == "unsteered" else gained),
                "beyond vocabulary": "" if name == "vocabulary" else beyond["gain"],
                "over worlds ": "" if name == "vocabulary" else beyond["over worlds"],
                "skills": round(statistics.mean(skills[name]), 3),
                "tuned": round(statistics.mean(flat(chosen)), 3) if chosen else "",
                "beyond tuned vocabulary": settled["gain"] if chosen and name != "vocabulary" else "",
                "over worlds  ": settled["over worlds"] if chosen and name != "vocabulary" else "",
            }
        )
    return rows


if __name__ == "__main__":
    main()
