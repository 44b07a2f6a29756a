"""`build` makes an artifact folder, `show` reads one."""

from __future__ import annotations

import argparse
from pathlib import Path

from grains_eval.cli.command import (
    Command,
    add_model_flags,
    add_output_flags,
    add_recipe_flags,
    chosen_backend,
    model_arguments,
    recipe_file,
)
from grains_eval.cli.estimate import add_estimate_flags, check_estimate_flags, print_estimate


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_flags(parser)
    add_model_flags(parser)
    add_output_flags(parser, "the artifact folder to write", required=False)
    add_estimate_flags(parser)


def _build(options: argparse.Namespace) -> None:
    from grains_eval.recipes import load_recipe

    check_estimate_flags(options)
    recipe = load_recipe(recipe_file(options.config), options.overrides)
    model_args = model_arguments(options, recipe.model_args)
    if options.estimate:
        print_estimate(recipe, model_args, options)
        return

    from grains_eval.cli.terminal import bars, output
    from grains_eval.report.show import show_folder
    from grains_eval.study.build import build_from_recipe
    from grains_eval.study.distributed import is_first_process
    from grains_eval.study.session import OutputFolder, Session

    session = Session(model_args, options.include_path, progress=bars, backend=chosen_backend(options))
    build_from_recipe(recipe, session, OutputFolder(options.output_path, options.overwrite))
    if is_first_process():
        show_folder(options.output_path, output())


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="an artifact folder, a run folder of lm-eval, or one with a report")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help="token heat maps to draw (default 3)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the heat maps as one HTML file too")


def _show(options: argparse.Namespace) -> None:
    from grains_eval.cli.terminal import output
    from grains_eval.report.show import show_folder

    show_folder(options.folder, output(), examples=options.examples, html=options.html)


COMMANDS = (
    Command(
        "build",
        "build steering vectors from a recipe",
        "grains-eval build --config tasks/truthfulqa/recipe.yaml --model_args pretrained=org/name "
        "--output_path steering_vectors/truthfulqa-name",
        _build_arguments,
        _build,
        "Build steering vectors from a recipe into an artifact folder.\n\n"
        "A build that was interrupted goes on "
        "where it stopped when\nthe same command is run again. Nothing is replaced without --overwrite.\n\n"
        "--estimate prints what a build would take, before any weights are loaded:\n"
        "memory, passes, operations, and which devices it fits.",
    ),
    Command(
        "show",
        "print the card of a vector, with token heat maps, a run or a report",
        "grains-eval show steering_vectors/truthfulqa-name",
        _show_arguments,
        _show,
    ),
)
