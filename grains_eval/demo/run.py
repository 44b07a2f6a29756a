"""`grains-eval demo`: build, evaluate and compare on the bundled models, through the product's own path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from grains_eval.demo import WEIGHTS, model_path
from grains_eval.errors import pick
from grains_eval.files import finished
from grains_eval.progress import Progress, silent
from grains_eval.recipes import load_recipe
from grains_eval.report.data import ReportData
from grains_eval.report.write import FILES as REPORT_FILES
from grains_eval.study.compare import compare_methods
from grains_eval.study.session import OutputFolder, Session
from grains_eval.tasks_path import task_directory

# worlds in the order they are shown; the methods are the quick ones, `compare --config` runs them all
WORLDS: Mapping[str, Sequence[str]] = {
    "text_split": ("grains", "grains_agreement"),
    "text_shared": ("grains", "grains_top_k"),
    "faithfulness": ("grains", "grains_agreement"),
    "image": ("grains", "grains_top_k"),
}


def demo_model_args(world: str) -> dict[str, Any]:
    """lm-eval's model arguments for a bundled model: float32 on the CPU."""
    return {"pretrained": str(model_path(world)), "dtype": "float32", "device": "cpu", "batch_size": 64}


def run_demo(
    place: OutputFolder,
    console: Any = None,
    *,
    worlds: Sequence[str] | None = None,
    progress: Progress = silent,
) -> dict[str, ReportData]:
    """Build, evaluate and compare on each bundled world; where some of them are finished, it goes on with the others.

    Args:
        place: Each world's vectors, runs and report go to a folder of its name in there.
        console: A rich console to print to.
        worlds: Names of worlds; default: all that are bundled.
        progress: Wraps loops, with a description.

    Returns:
        The report of each world.

    Raises:
        GrainsError: an unknown world, or the reports of all of them are there.
    """
    bundled = [world for world in WORLDS if (WEIGHTS / world / "config.json").is_file()]
    chosen = {world: pick(WORLDS, world, "demo world") for world in worlds or bundled}
    done = [world for world in chosen if finished(place.path / world, REPORT_FILES)]
    if not place.overwrite and 0 < len(done) < len(chosen):
        place = replace(place, resume=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for models this small one thread is faster than several
    reports: dict[str, ReportData] = {}
    try:
        for world, methods in chosen.items():
            if console is not None:
                console.rule(f"[bold]{world}")
            recipe = load_recipe(task_directory() / "demo" / world / "recipe.yaml")
            session = Session(demo_model_args(world), console=console, progress=progress)
            output = replace(place, path=place.path / world)
            reports[world] = compare_methods(recipe, session, output, methods=methods)
    finally:
        torch.set_num_threads(threads)
    return reports
