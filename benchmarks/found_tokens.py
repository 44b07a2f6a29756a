"""Do found tokens hold on fresh worlds? One model a seed, beside every control, vectors and a cue in the prompt.

    python -m benchmarks.found_tokens --models DIR --worlds shared faithfulness --seeds 402 403

Every setting was fixed on seed 0 before one of these seeds was looked at: the defaults of `found_tokens` (strength 0,
one virtual token), attribution and the vectors' one setting from the world's recipe. Rows that say `tuned` choose
layer and strength on items of the build and development towns of their own world. Accuracy is over cue-free questions
on test towns; skills and closed book over items on which nothing was tested. The answers of each world go to `--runs`
and are taken from there where they are; a world whose model missed its gates is left out and counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.found_image_rows import ABLATIONS, IMAGES, image_items, measure_images, open_images, trained
from benchmarks.found_token_rows import (
    CUE,
    FOUND,
    STRONGER,
    TUNED_VOCABULARY,
    UNSTEERED,
    VECTORS,
    WORLDS,
    Row,
    measure_world,
    open_world,
)
from benchmarks.worlds.text_world import fact_items, make_world
from benchmarks.worlds.train_text import train_to_folder
from grains_eval.demo import model_path
from grains_eval.tasks_path import task_directory

SEEDS = range(402, 407)
BUNDLED = {"split": "text_split", "shared": "text_shared", "faithfulness": "faithfulness"}
RUNS = Path(__file__).parent / "results" / "found_tokens"
# the goal that was set beforehand
LEAST_BEYOND, MOST_LOST, MOST_BEHIND_CUE = 0.2, 0.01, 0.05
METHODS = {FOUND, STRONGER, CUE, UNSTEERED, *VECTORS, *(f"{name}, tuned" for name in VECTORS)} - {TUNED_VOCABULARY}
METHODS |= ABLATIONS

Answers = Mapping[str, Any]


def answers(name: str, seed: int, arguments: argparse.Namespace) -> Answers:
    """What is measured in one world, or was before; with `--complete`, rows that are missing are measured now."""
    file: Path = arguments.runs / f"{name}_{seed}.json"
    known: dict[str, Any] = {}
    if file.is_file() and not arguments.smoke:
        known = json.loads(file.read_text(encoding="utf-8"))
        if not arguments.complete:
            return known
    draws = 1 if arguments.smoke else arguments.draws
    if name == IMAGES:
        found = _of_images(seed, known, draws, arguments)
    else:
        found = _of_text(name, seed, known, draws, arguments)
    if not arguments.smoke:
        found["cpu_seconds"] = {**known.get("cpu_seconds", {}), **found.get("cpu_seconds", {})}
        arguments.runs.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _of_images(seed: int, known: Answers, draws: int, arguments: argparse.Namespace) -> dict[str, Any]:
    bundled = arguments.smoke or seed == 0
    folder = model_path("image") if bundled else arguments.models / f"image_{seed}"
    found: dict[str, Any] = {"world": IMAGES, "seed": seed, "training": trained(seed, folder)}
    if found["training"]["gate_passed"]:
        world = open_images(seed, folder, 12 if arguments.smoke else None)
        world.rows |= {label: Row(**row) for label, row in known.get("rows", {}).items()}
        found |= measure_images(world, draws, not arguments.no_pools)
    return found


def _of_text(name: str, seed: int, known: Answers, draws: int, arguments: argparse.Namespace) -> dict[str, Any]:
    kind = WORLDS[name].kind
    if arguments.smoke or (seed == 0 and kind in BUNDLED):
        folder, items = model_path(BUNDLED[kind]), task_directory() / "demo" / BUNDLED[kind] / "data"
    else:
        folder = arguments.models / f"{kind}_{seed}"
        items = folder / "tasks"
        if not (folder / "training.json").is_file():
            train_to_folder(kind, seed, folder)
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    training = {key: record.get(key, []) for key in ("gate_passed", "accuracy", "discarded")}
    found: dict[str, Any] = {"world": name, "seed": seed, "training": training}
    if training["gate_passed"]:
        with tempfile.TemporaryDirectory() as scratch:
            world = open_world(name, seed, folder, items, Path(scratch))
            world.rows |= {label: Row(**row) for label, row in known.get("rows", {}).items()}
            if arguments.smoke:
                data = world.one.recipe.data.model_copy(update={"examples": 12})
                world.one = replace(world.one, recipe=world.one.recipe.model_copy(update={"data": data}))
            found |= measure_world(name, seed, world, draws, not arguments.no_pools)
    return found


def known_seeds(name: str, runs: Path) -> list[int]:
    """Seeds of a world that were measured, else those meant for it."""
    stems = (file.stem.rpartition("_") for file in runs.glob(f"{name}_*.json"))
    return sorted(int(seed) for world, _, seed in stems if world == name) or list(SEEDS)


def scores(row: Mapping[str, Any]) -> list[float]:
    """Mean over the draws of a row, item by item."""
    return [statistics.mean(map(int, item)) for item in zip(*row["draws"], strict=True)]


def table(name: str, worlds: Sequence[Answers]) -> list[dict[str, Any]]:
    """One row per method, with how far the found token is beyond it in the worlds where both were measured."""
    rows: list[dict[str, Any]] = []
    for label in _labels(worlds):
        those = [each for each in worlds if label in each["rows"]]
        found = [each["rows"][label] for each in those]
        theirs = [value for row in found for value in scores(row)]
        ours = [value for each in those for value in scores(each["rows"][FOUND])]
        names = [str(each["seed"]) for each in those for _ in _test(name, each["seed"])]
        clusters = [f"{each['seed']} {item['cluster']}" for each in those for item in _test(name, each["seed"])]
        draws = [statistics.mean(map(int, draw)) for row in found for draw in row["draws"]]
        ahead = common.change(theirs, ours, names, clusters) if label != FOUND else {}
        books = [row["closed_book"] for row in found if row["closed_book"] is not None]
        seeds = [f"{statistics.mean(scores(each['rows'][label])):.2f}" if each in those else "–" for each in worlds]
        rows.append(
            {
                "world": name,
                "method": label,
                "accuracy": round(statistics.mean(theirs), 3),
                "per seed": " ".join(seeds),
                "draws": f"{min(draws):.2f} to {max(draws):.2f}" if len(draws) > len(found) else "",
                "found token beyond it": ahead.get("gain", ""),
                "in these worlds": ahead.get("in these worlds", ""),
                "over worlds": ahead.get("over worlds", ""),
                "skills": round(statistics.mean(row["skills"] for row in found), 3),
                "closed book": round(statistics.mean(books), 3) if books else "",
            }
        )
    return rows


def _labels(worlds: Sequence[Answers]) -> list[str]:
    return list(dict.fromkeys(label for each in worlds for label in each["rows"]))


def _test(name: str, seed: int) -> Sequence[Mapping[str, Any]]:
    if name == IMAGES:
        return image_items(seed)
    return fact_items(make_world(WORLDS[name].kind, seed), "test")


def goal(name: str, worlds: Sequence[Answers]) -> list[dict[str, Any]]:
    """The goal's parts, each with its figure and whether it is reached."""

    def mean(each: Answers, label: str) -> float:
        return statistics.mean(scores(each["rows"][label]))

    def part(what: str, differences: Sequence[float], reached: bool, interval: str = "") -> dict[str, Any]:
        figure = f"{statistics.mean(differences):+.3f}"
        # a lead that is large enough in a single world says nothing of others
        enough = interval == "–" and statistics.mean(differences) >= LEAST_BEYOND
        verdict = "yes" if reached else "one world" if enough else "NO"
        return {"world": name, "goal": what, "figure": figure, "over worlds": interval, "reached": verdict}

    rows: list[dict[str, Any]] = []
    for label in _labels(worlds):
        if label in METHODS:
            continue
        beyond = [mean(each, FOUND) - mean(each, label) for each in worlds if label in each["rows"]]
        low, high = common.over_worlds(beyond)
        reached = statistics.mean(beyond) >= LEAST_BEYOND and low > 0
        shown = f"[{low:+.3f}, {high:+.3f}]" if low == low else "–"
        rows.append(part(f"≥ {LEAST_BEYOND} beyond: {label}", beyond, reached, shown))
    for what in ("skills", "closed_book"):
        if worlds[0]["rows"][FOUND][what] is not None:
            lost = [each["rows"][FOUND][what] - each["rows"][UNSTEERED][what] for each in worlds]
            label = f"{what.replace('_', ' ')} within {MOST_LOST}"
            rows.append(part(label, lost, statistics.mean(lost) >= -MOST_LOST - 1e-9))
    behind = [mean(each, FOUND) - mean(each, CUE) for each in worlds]
    reached = statistics.mean(behind) >= -MOST_BEHIND_CUE - 1e-9
    rows.append(part(f"within {MOST_BEHIND_CUE} of the cue in the prompt", behind, reached))
    whole = all(row["reached"] == "yes" for row in rows)
    rows.append(
        {"world": name, "goal": "all of it", "figure": "", "over worlds": "", "reached": "yes" if whole else "NO"}
    )
    return rows


def builds(worlds: Sequence[Answers]) -> list[dict[str, Any]]:
    """What each build found, and what it cost."""
    rows: list[dict[str, Any]] = []
    for each in worlds:
        training, measured = each["training"], "rows" in each
        spent = each.get("cpu_seconds", {})
        rows.append(
            {
                "world": each["world"],
                "seed": each["seed"],
                "models discarded": len(training["discarded"]) + (not training["gate_passed"]),
                "cue obeyed": training["accuracy"]["preferred"],
                "found": "; ".join(each["rows"][FOUND]["notes"]) if measured else "no model passed its gates",
                "attribution, CPU s": spent.get("attributions", ""),
                "selection of both sides": spent.get("attribution", ""),
                "of every token, one side": spent.get("every", ""),
            }
        )
    return rows


def main() -> None:
    """Train or reuse, measure or reuse, pool, print."""
    parser = common.parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=Path, help="folders WORLD_SEED; missing ones are trained there")
    parser.add_argument("--runs", type=Path, default=RUNS, help="answers of each world, taken up again")
    parser.add_argument("--worlds", nargs="+", choices=[*sorted(WORLDS), IMAGES], default=["shared", "faithfulness"])
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those in --runs, else 402 to 406")
    parser.add_argument("--complete", action="store_true", help="measure what the answers in --runs lack")
    parser.add_argument("--no-pools", action="store_true", help="build no tokens from random pools or every token")
    parser.add_argument("--draws", type=int, default=5, help="draws of each random control")
    arguments = parser.parse_args()
    common.start(arguments)
    rows: list[dict[str, Any]] = []
    goals: list[dict[str, Any]] = []
    built: list[dict[str, Any]] = []
    for name in arguments.worlds[:1] if arguments.smoke else arguments.worlds:
        seeds = [0] if arguments.smoke else arguments.seeds or known_seeds(name, arguments.runs)
        found = [answers(name, seed, arguments) for seed in seeds]
        built += builds(found)
        measured = [each for each in found if "rows" in each]
        if measured:
            rows += table(name, measured)
            # without cues there is nothing to reach: the build should say so
            cues = WORLDS[name].build_cues if name in WORLDS else "mixed"
            goals += goal(name, measured) if cues != "none" else []
    common.report("found_tokens", rows, arguments)
    for suffix, more in (("goal", goals), ("builds", built)):
        if not more:
            continue
        output: Path | None = arguments.output and arguments.output.with_stem(f"{arguments.output.stem}_{suffix}")
        common.report("found_tokens", more, argparse.Namespace(**{**vars(arguments), "output": output}))


if __name__ == "__main__":
    main()
