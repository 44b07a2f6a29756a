"""`compare`, `sweep` and `ablate`: reports and studies from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grains_eval.cli.command import (
    Command,
    add_model_flags,
    add_output_flags,
    add_recipe_flags,
    chosen_backend,
    integers,
    model_arguments,
    names,
    numbers,
    recipe_file,
)
from grains_eval.errors import GrainsError

if TYPE_CHECKING:
    from grains_eval.recipes import Recipe
    from grains_eval.study.session import OutputFolder, Session


def _add_all_metrics(parser: Any) -> None:
    parser.add_argument(
        "--all_metrics",
        action="store_true",
        help="a row for every metric of a task (default: its headline metric, or those of --metrics)",
    )


def _study(options: argparse.Namespace) -> tuple[Recipe, Session, OutputFolder]:
    """What every study takes besides its grid."""
    from grains_eval.recipes import load_recipe

    recipe = load_recipe(recipe_file(options.config), options.overrides)
    model_args = model_arguments(options, recipe.model_args)
    from grains_eval.cli.terminal import bars, output
    from grains_eval.study.session import OutputFolder, Session

    session = Session(model_args, options.include_path, output(), bars, backend=chosen_backend(options))
    place = OutputFolder(options.output_path, options.overwrite, getattr(options, "resume", False))
    return recipe, session, place


# Flags of either form of compare that the other cannot use: name, and what to write there instead.
_OF_RUNS = {
    "tasks": "the recipe's key is evaluation.tasks: --set 'evaluation.tasks=[A,B]'",
    "targets": "the recipe's key is evaluation.tasks: --set 'evaluation.tasks=[A,B]'",
    "preserve": "the recipe's key is evaluation.preserve: --set 'evaluation.preserve=[A,B]'",
    "margin": "the recipe's key is evaluation.margin: --set evaluation.margin=0.02",
    "metrics": "the recipe's key for the metric of the headline is evaluation.metrics: --set evaluation.metrics.TASK=A",
    "controls": "its controls are made and named by the study; or compare the folders in OUTPUT_PATH/runs",
    "higher_is_better": "a task's own YAML says it (metric_list); or compare the folders in OUTPUT_PATH/runs",
    "groups": "the recipe's key is evaluation.groups: --set evaluation.groups=sampled",
    "leaderboard": "a recipe that names the group leaderboard or openllm among its tasks gets that leaderboard's rows",
    "clusters": "a task's own YAML says it (metadata.cluster_key); or compare the folders in OUTPUT_PATH/runs",
}
_OF_RECIPES = (
    *("methods", "resume", "model_args", "device", "batch_size", "backend", "backend_args"),
    *("overrides", "include_path"),
)


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    runs = parser.add_argument_group("runs that exist already")
    runs.add_argument("runs", nargs="*", metavar="RUN_DIR", help="the baseline's folder, then the others'")
    runs.add_argument("--tasks", "-t", type=names, metavar="A,B", help="only these tasks or groups")
    runs.add_argument("--metrics", type=names, metavar="A,B", help="only these metrics, without filter (acc)")
    runs.add_argument(
        "--controls", type=names, metavar="A,B", help="runs that are controls, by folder (default: artifacts say it)"
    )
    runs.add_argument(
        "--targets", type=names, metavar="A,B", help="tasks or groups that were to improve (default: all not preserved)"
    )
    runs.add_argument(
        "--preserve",
        type=names,
        metavar="A,B",
        help="tasks or groups whose score must not fall (default: as recipes and tasks declare)",
    )
    runs.add_argument("--margin", type=float, metavar="SHARE", help="loss that still counts as kept (default 0.01)")
    runs.add_argument(
        "--clusters",
        action="append",
        default=[],
        metavar="TASK=FIELD",
        help="field of the documents by which items belong together; repeated or with commas "
        "(default: the task's metadata.cluster_key)",
    )
    runs.add_argument(
        "--higher_is_better",
        action="append",
        default=[],
        metavar="METRIC=true|false",
        help="direction of a metric that its task declares none for; repeated or with commas",
    )
    runs.add_argument(
        "--groups",
        choices=("fixed", "sampled"),
        help="what a group's row is about: these subtasks (fixed, the default), or subtasks like these (sampled)",
    )
    runs.add_argument(
        "--leaderboard",
        metavar="NAME",
        help="open_llm_v2 or open_llm_v1: the leaderboard's scores by benchmark and their mean, for runs of the "
        "harness's group leaderboard or openllm (only its tasks, unless --tasks names others too)",
    )
    report = parser.add_argument_group("report")
    report.add_argument("--alpha", type=float, metavar="SHARE", help="level of tests and intervals (default 0.05)")
    report.add_argument("--subtasks", action="store_true", help="also a row for each task of an aggregated group")
    _add_all_metrics(report)
    report.add_argument("--title", help="heading of the report")
    add_recipe_flags(parser, required=False)
    parser.add_argument("--methods", type=names, metavar="A,B", help="with --config: methods to build and evaluate")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="with --config: take up a finished comparison, with further methods for instance; vectors and runs stay, "
        "the report is replaced",
    )
    add_model_flags(parser)
    add_output_flags(parser, "where runs and the report go", "runs/compare")


def _compare(options: argparse.Namespace) -> None:
    if bool(options.config) == bool(options.runs):
        raise GrainsError("compare takes run folders (the baseline first) or --config with --model_args")
    from grains_eval.comparison import Analysis, Question
    from grains_eval.report import Supplement, compare_runs

    shown: dict[str, Any] = {
        "alpha": 0.05 if options.alpha is None else options.alpha,
        "subtasks": options.subtasks,
        "all_metrics": options.all_metrics,
    }
    supplement = Supplement(title=options.title)
    if options.config:
        for flag, instead in _OF_RUNS.items():
            if _given(options, flag):
                raise GrainsError(f"--{flag} applies to run folders, not to --config; {instead}")
        study = _study(options)
        from grains_eval.study.compare import compare_methods

        compare_methods(*study, options.methods, Analysis(**shown), supplement)
        return
    for flag in _OF_RECIPES:
        if _given(options, flag):
            raise GrainsError(
                f"--{'set' if flag == 'overrides' else flag} applies to --config, not to run folders, which are "
                "compared as they are; leave it out, or give --config instead of the folders"
            )
    if len(options.runs) < 2:
        raise GrainsError("compare needs two run folders or more: the baseline first, then the others")
    if options.leaderboard and options.metrics and not options.tasks:
        raise GrainsError("--metrics does not apply to --leaderboard, which has metrics of its own; leave it out")
    from grains_eval.cli.terminal import output

    compare_runs(
        options.runs,
        options.output_path,
        output(),
        analysis=Analysis(
            tasks=options.tasks,
            metrics=options.metrics,
            clusters=_pairs("clusters", "TASK=FIELD", options.clusters, "mmlu_anatomy=subject"),
            higher_is_better=_directions(options.higher_is_better),
            groups=options.groups or "fixed",
            leaderboard=options.leaderboard,
            **shown,
        ),
        question=Question(
            targets=options.targets,
            preserve=options.preserve,
            margin=0.01 if options.margin is None else options.margin,
            controls=options.controls,
        ),
        supplement=supplement,
        overwrite=options.overwrite,
    )


def _given(options: argparse.Namespace, flag: str) -> bool:
    value = getattr(options, flag)
    return value is not None and value is not False and value != []  # 0 is a value


def _pairs(flag: str, form: str, texts: Sequence[str], example: str) -> dict[str, str]:
    """`["a=x,b=y", "c=z"]` as a table."""
    found: dict[str, str] = {}
    for pair in (pair for text in texts for pair in names(text)):
        name, _, value = pair.partition("=")
        if not name or not value:
            raise GrainsError(f"--{flag} '{pair}' is not {form}; write for example {example}")
        found[name] = value
    return found


def _directions(texts: Sequence[str]) -> dict[str, bool]:
    given = _pairs("higher_is_better", "METRIC=true|false", texts, "wer=false")
    known = {"true": True, "false": False}
    for metric, value in given.items():
        if value.lower() not in known:
            raise GrainsError(
                f"--higher_is_better '{metric}={value}' says neither true nor false; write {metric}=false"
            )
    return {metric: known[value.lower()] for metric, value in given.items()}


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_flags(parser)
    add_model_flags(parser)
    grid = parser.add_argument_group("grid (default: what the recipe says)")
    grid.add_argument("--layers", type=integers, metavar="8,16", help="decoder layers, each alone")
    grid.add_argument("--strengths", type=numbers, metavar="0.5,1", help="strengths")
    grid.add_argument("--top_k", type=integers, metavar="5,10", help="numbers of tokens")
    grid.add_argument("--examples", type=integers, metavar="25,50", help="numbers of build examples")
    grid.add_argument("--tokens", type=integers, metavar="1,2", help="found tokens: numbers of virtual tokens")
    grid.add_argument("--distances", type=integers, metavar="5,10", help="found tokens: tokens back to them")
    add_output_flags(parser, "where curves and the chosen setting go", "runs/sweep")


def _sweep(options: argparse.Namespace) -> None:
    study = _study(options)
    from grains_eval.study.sweep import SweepGrid, sweep

    tried = SweepGrid(
        layers=options.layers,
        strengths=options.strengths,
        top_k=options.top_k,
        examples=options.examples,
        tokens=options.tokens,
        distances=options.distances,
    )
    sweep(*study, tried)


def _ablate_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_flags(parser)
    add_model_flags(parser)
    grid = parser.add_argument_group("grid")
    grid.add_argument(
        "--grid",
        action="append",
        required=True,
        metavar="SECTION.KEY=A,B",
        help="values of one key of the recipe; repeated, the grid is their product",
    )
    _add_all_metrics(grid)
    add_output_flags(parser, "where runs and the report go", "runs/ablate")


def _ablate(options: argparse.Namespace) -> None:
    study = _study(options)
    from grains_eval.study.ablate import ablate

    ablate(*study, grid=options.grid, all_metrics=options.all_metrics)


COMMANDS = (
    Command(
        "compare",
        "paired statistics over runs of lm-eval, Inspect or lmms-eval; or build and compare methods",
        "grains-eval compare runs/baseline runs/steered",
        _compare_arguments,
        _compare,
        "Compare runs of lm-eval or lmms-eval made with --log_samples, or logs of Inspect, the baseline first;\n"
        "or, with --config, build the methods of --methods, evaluate each and compare them with the unsteered model.",
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
