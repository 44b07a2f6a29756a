"""Which method steers best on fresh worlds? All of them, tuned on development items, beside the controls.

    python -m benchmarks.methods --models DIR --worlds text_split text_shared image --draws 5

Per world and seed this is `grains-eval compare --config demo/WORLD` with the seed's own model and
`--set data.metadata.items=FOLDER`: each method is built from the same 50 examples, chooses its setting on the
same development items and meets the same test items once. `grains_tuned` and `vocabulary_tuned` choose like the
baselines, by the same rule; `grains` and `vocabulary` keep the setting that seed 0 fixed, which no rule checked
here. Figures are over cue-free questions on towns or rooms that no vector was built or tuned on.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.worlds.train_image import train_to_folder as train_image
from benchmarks.worlds.train_text import train_to_folder as train_text
from grains_eval.artifacts.load import open_artifact
from grains_eval.demo import model_path
from grains_eval.recipes import Recipe, load_recipe
from grains_eval.report.data import ReportData
from grains_eval.study.compare import BASELINE, compare_methods
from grains_eval.study.methods import default_methods
from grains_eval.study.session import OutputFolder, Session
from grains_eval.tasks_path import task_directory

# names of the training scripts' worlds, and seeds that no setting was chosen on
WORLDS = {"text_split": "split", "text_shared": "shared", "image": "image"}
FRESH = {"text_split": range(101, 106), "text_shared": range(101, 106), "image": range(201, 206)}
RIVAL = "vocabulary_tuned"
TUNED = {
    "grains_tuned": {"steering": {"layers": "auto", "strength": "auto"}},
    RIVAL: {"vectors": {"method": "vocabulary"}, "steering": {"layers": "auto", "strength": "auto"}},
}
SMALL = {"data": {"examples": 8, "development": 6}, "evaluation": {"limit": 6}, "attribution": {"steps": 4}}


@dataclass
class Pool:
    """Test items of all seeds under one method; the lists of `before` and `after` run side by side.

    Attributes:
        before: 0 or 1 per item, unsteered.
        after: The same under the method, a mean over draws for a control with several.
        worlds: The world of each item.
        clusters: Its town or room.
        seeds: Mean of `after` of each seed.
        skills: Accuracy on questions that steering should leave alone, of each seed.
        settings: Where and how strongly, of each seed.
    """

    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    worlds: list[str] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)
    seeds: list[float] = field(default_factory=list)
    skills: list[float] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)


def folder_of(world: str, seed: int, models: Path) -> Path:
    """The trained world's folder, trained first where it is missing."""
    folder = models / f"{WORLDS[world]}_{seed}"
    if not (folder / "training.json").is_file():
        if world == "image":
            train_image("split", seed, folder, keep_failures=True)
        else:
            train_text(WORLDS[world], seed, folder)
    return folder


def compared(world: str, model: Path, items: Path | None, output: Path, draws: int, small: bool) -> ReportData:
    """Run the comparison of one seed; what is in `output` already is used again."""
    recipe = load_recipe(task_directory() / "demo" / world / "recipe.yaml")
    changes: dict[str, Any] = {"evaluation": {"control_draws": draws}}
    if items is not None:
        changes["data"] = {"metadata": {"items": str(items)}}
    recipe = with_tuned(recipe, changes)
    if small:
        recipe = with_tuned(recipe, SMALL)
    arguments = {"pretrained": str(model), "dtype": "float32", "device": "cpu"}
    session, place = Session(arguments), OutputFolder(output, resume=True)
    return compare_methods(recipe, session, place, methods=default_methods(recipe))


def with_tuned(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with changes, its own variants and the one that is tuned like the baselines."""
    return recipe.variant(recipe.name, changes).model_copy(update={"methods": {**recipe.methods, **TUNED}})


def pool(report: ReportData, recipe: Recipe, vectors: Path, seed: int, into: dict[str, Pool]) -> None:
    """Add one seed's rows; draws of a control are averaged item by item.

    Of the controls, those beside the recipe's own method are kept: each seed tunes the other methods to a setting of
    its own, so that what stands beside them differs from seed to seed.
    """
    target, preserved = recipe.evaluation.tasks[0], recipe.evaluation.preserve[0]
    own, *others = methods = default_methods(with_tuned(recipe, {}))
    draws = {member: band.label.removesuffix(f" beside {own}") for band in report.bands for member in band.members}
    elsewhere = {name for name, label in draws.items() if " beside " in label}
    elsewhere |= {f"{other}_{kind}" for other in others for kind in ("negated", "without_vocabulary")} - set(methods)
    found: dict[str, list[Any]] = {}
    kept: dict[str, list[float]] = {}
    for row in report.rows:
        name = draws.get(row.comparison.method, row.comparison.method)
        if row.comparison.method in elsewhere:
            continue
        if row.comparison.task == target:
            found.setdefault(name, []).append(row.metrics[0])
        elif row.comparison.task == preserved:
            kept.setdefault(name, []).append(row.comparison.steered)
            kept.setdefault(BASELINE, [row.comparison.baseline])
    first = next(iter(found.values()))[0]
    scores = {name: np.mean([one.steered for one in metrics], axis=0) for name, metrics in found.items()}
    for name, after in {BASELINE: first.baseline, **scores}.items():
        mine = into.setdefault(name, Pool())
        mine.before += first.baseline.tolist()
        mine.after += after.tolist()
        mine.worlds += [str(seed)] * len(after)
        mine.clusters += [f"{seed} {cluster}" for cluster in first.clusters]
        mine.seeds.append(float(np.mean(after)))
        mine.skills.append(statistics.mean(kept[name]))
        mine.settings.append(setting(vectors / name))


def setting(folder: Path) -> str:
    """Layers and strength of an artifact, as chosen."""
    if not folder.is_dir():
        return "–"
    artifact = open_artifact(folder)
    if artifact.vectors is None:
        return "–"
    chosen = artifact.vectors.recommended
    layers = "all" if chosen.layers is None else "/".join(map(str, chosen.layers))
    return f"{layers}: {chosen.strength:.3g}"


def table(world: str, pools: Mapping[str, Pool]) -> list[dict[str, Any]]:
    """One row per method, in the order of the comparison."""
    rival = pools[RIVAL]
    rows: list[dict[str, Any]] = []
    for name, mine in pools.items():
        gained = common.change(mine.before, mine.after, mine.worlds, mine.clusters)
        beyond = common.change(rival.after, mine.after, mine.worlds, mine.clusters)
        rows.append(
            {
                "world": world,
                "method": name,
                "accuracy": round(statistics.mean(mine.after), 3),
                "per seed": " ".join(f"{value:.2f}" for value in mine.seeds),
                **(dict.fromkeys(gained, "") if name == BASELINE else gained),
                "beyond tuned vocabulary": "" if name == RIVAL else beyond["gain"],
                "over worlds ": "" if name == RIVAL else beyond["over worlds"],
                "skills": round(statistics.mean(mine.skills), 3),
                "layers: strength": ", ".join(mine.settings) if set(mine.settings) != {"–"} else "–",
            }
        )
    return rows


def main() -> None:
    """Train or reuse, compare, pool, print."""
    parser = common.parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=Path, help="folders WORLD_SEED; missing ones are trained there")
    parser.add_argument("--runs", type=Path, help="where comparisons go and are taken up again; default: nowhere")
    parser.add_argument("--worlds", nargs="+", choices=sorted(WORLDS), default=list(WORLDS))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: five that no setting was chosen on")
    parser.add_argument("--draws", type=int, default=5, help="draws of each random control")
    arguments = parser.parse_args()
    if arguments.models is None and not arguments.smoke:
        parser.error("--models is needed: a folder for the trained worlds")
    common.start(arguments)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        runs = arguments.runs or Path(scratch)
        for world in arguments.worlds:
            recipe = load_recipe(task_directory() / "demo" / world / "recipe.yaml")
            pools: dict[str, Pool] = {}
            for seed in (0,) if arguments.smoke else arguments.seeds or FRESH[world]:
                # a smoke takes the bundled model of seed 0: it checks that everything runs, not what it finds
                model = model_path(world) if arguments.smoke else folder_of(world, seed, arguments.models)
                items = None if arguments.smoke else model / "tasks"
                output = runs / f"{world}_{seed}"
                report = compared(
                    world, Path(model), items, output, 1 if arguments.smoke else arguments.draws, arguments.smoke
                )
                for name, reason in report.failures.items():
                    raise SystemExit(f"{world} {seed}: {name} failed: {reason}")
                pool(report, recipe, output / "vectors", seed, pools)
            rows += table(world, pools)
    common.report("methods", rows, arguments)


if __name__ == "__main__":
    main()
