"""`compare`, `sweep` and `ablate`: what the study rooms do, from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from grains_eval.cli.command import (
    Command,
    add_model_flags,
    add_output_flags,
    add_recipe_flags,
    integers,
    model_arguments,
    names,
    numbers,
    recipe_file,
)
from grains_eval.errors import GrainsError


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN_DIR", help="the baseline's folder, then the others'"
    )
    parser.add_argument(
        "--methods", type=names, metavar="A,B", help="with --config: build and evaluate these methods"
    )
    add_recipe_flags(parser, required=False)
    add_model_flags(parser)
    add_output_flags(parser, "where runs and the report go", "runs/compare")


def _compare(options: argparse.Namespace) -> None:
    from rich.console import Console

    if bool(options.config) == bool(options.runs):
        raise GrainsError(
            "compare takes either run folders (the baseline first) or --config with --model_args"
        )
    if options.runs:
        if len(options.runs) < 2:
            raise GrainsError(
                "compare needs at least two run folders: the baseline first, then the steered ones"
            )
        from grains_eval.report import compare_runs

        compare_runs(options.runs, options.output_path, Console(), overwrite=options.overwrite)
        return
    from grains_eval.cli.progress import bars
    from grains_eval.recipes import load_recipe
    from grains_eval.study.compare import compare_methods

    recipe = load_recipe(recipe_file(options.config), options.overrides)
    compare_methods(
        recipe,
        model_arguments(options, recipe.model_args),
        options.output_path,
        Console(),
        methods=options.methods,
        overwrite=options.overwrite,
        progress=bars,
    )


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_flags(parser)
    add_model_flags(parser)
    group = parser.add_argument_group("grid")
    group.add_argument(
        "--layers", type=integers, metavar="8,16", help="decoder blocks (default: the recipe's)"
    )
    group.add_argument("--strengths", type=numbers, metavar="0.5,1", help="strengths (default: the recipe's)")
    add_output_flags(parser, "where curves and the chosen setting go", "runs/sweep")


def _sweep(options: argparse.Namespace) -> None:
    from rich.console import Console

    from grains_eval.cli.progress import bars
    from grains_eval.recipes import load_recipe
    from grains_eval.study.sweep import sweep

    recipe = load_recipe(recipe_file(options.config), options.overrides)
    sweep(
        recipe,
        model_arguments(options, recipe.model_args),
        options.output_path,
        Console(),
        layers=options.layers,
        strengths=options.strengths,
        overwrite=options.overwrite,
        progress=bars,
    )


def _ablate_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_flags(parser)
    add_model_flags(parser)
    parser.add_argument(
        "--grid",
        action="append",
        required=True,
        metavar="SECTION.KEY=A,B",
        help="values of one key of the recipe; repeated, the grid is their product",
    )
    add_output_flags(parser, "where runs and the report go", "runs/ablate")


def _ablate(options: argparse.Namespace) -> None:
    from rich.console import Console

    from grains_eval.cli.progress import bars
    from grains_eval.recipes import load_recipe
    from grains_eval.study.ablate import ablate

    recipe = load_recipe(recipe_file(options.config), options.overrides)
    ablate(
        recipe,
        model_arguments(options, recipe.model_args),
        options.output_path,
        Console(),
        grid=options.grid,
        overwrite=options.overwrite,
        progress=bars,
    )


COMMANDS = (
    Command(
        "compare",
        "compare lm-eval runs with paired statistics, or build and compare methods",
        "grains-eval compare runs/baseline runs/steered",
        _compare_arguments,
        _compare,
        "Compare runs of lm-eval made with --log_samples, the baseline first; or, with --config, build the\n"
        "methods of --methods, evaluate each and compare them with the unsteered model.",
    ),
    Command(
        "sweep",
        "curves over layers and strengths on development items",
        "grains-eval sweep --config tasks/truthfulqa/recipe.yaml --model_args pretrained=org/name "
        "--layers 8,16,24 --strengths 0.5,1,2",
        _sweep_arguments,
        _sweep,
    ),
    Command(
        "ablate",
        "build and evaluate a grid of recipe keys",
        "grains-eval ablate --config tasks/truthfulqa/recipe.yaml --model_args pretrained=org/name "
        "--grid attribution.method=integrated_gradients,random --grid attribution.top_k=5,10",
        _ablate_arguments,
        _ablate,
    ),
)
