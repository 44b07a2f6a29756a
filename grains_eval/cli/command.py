"""What a subcommand is, and the flags that several of them share (spelled as lm-eval spells them)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grains_eval.errors import GrainsError, unknown
from grains_eval.tasks_path import task_directory


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        name: What is typed.
        summary: One line for the list of commands.
        example: A whole command for the end of its help.
        add_arguments: Declares its flags; None hands all its words over unread.
        execute: Does the work, with the parsed flags (or with `words`).
        description: Longer text for its own help; default the summary.
    """

    name: str
    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None] | None
    execute: Callable[[argparse.Namespace], None]
    description: str = ""


def add_recipe_flags(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """`--config`, `--set` and `--include_path`."""
    group = parser.add_argument_group("recipe")
    group.add_argument(
        "--config",
        "-C",
        required=required,
        metavar="RECIPE",
        help="a recipe.yaml, or the name of a bundled behaviour",
    )
    group.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a key of the recipe; may be repeated",
    )
    group.add_argument(
        "--include_path",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a folder with lm-eval tasks of your own; may be repeated",
    )


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """`--model_args`, `--device`, `--batch_size`, as lm-eval has them."""
    group = parser.add_argument_group("model (as in lm-eval)")
    group.add_argument(
        "--model_args",
        "-a",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="e.g. pretrained=org/name,dtype=bfloat16; everything that `--model hf` takes",
    )
    group.add_argument("--device", help="e.g. cuda, cuda:0, mps, cpu")
    group.add_argument("--batch_size", "-b", help="a number, auto or auto:N")
    group.add_argument(
        "--backend",
        choices=("hf", "vllm"),
        help="what scores and evaluates under many settings: the model itself (hf, the default) or a vLLM engine",
    )
    group.add_argument(
        "--backend_args",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="further arguments of the vLLM engine, e.g. tensor_parallel_size=2,gpu_memory_utilization=0.5",
    )


def add_output_flags(
    parser: argparse.ArgumentParser, what: str, default: str | None = None, *, required: bool = True
) -> None:
    """`--output_path` and `--overwrite`."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output_path",
        "-o",
        type=Path,
        required=required and default is None,
        metavar="FOLDER",
        default=None if default is None else Path(default),
        help=what if default is None else f"{what} (default {default})",
    )
    group.add_argument("--overwrite", action="store_true", help="replace what is there")


def add_plugin_flag(parser: argparse.ArgumentParser) -> None:
    """`--plugin`."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module, or a .py file, with methods of your own; may be repeated",
    )


def plugin_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Modules after `--plugin`, and all other words as they stand."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_plugin_flag(parser)
    known, others = parser.parse_known_args(list(words))
    return known.plugin, others


def names(text: str) -> list[str]:
    """Split a comma-separated list, as in `--tasks a,b`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def integers(text: str) -> list[int]:
    """Split a comma-separated list of whole numbers."""
    return [int(name) for name in names(text)]


def numbers(text: str) -> list[float]:
    """Split a comma-separated list of numbers."""
    return [float(name) for name in names(text)]


def model_arguments(options: argparse.Namespace, defaults: dict[str, Any]) -> dict[str, Any]:
    """Join the recipe's model arguments and the flags; flags win.

    Raises:
        GrainsError: nothing says which model.
    """
    from grains_eval.models.loading import parse_model_args

    merged = {**defaults, **parse_model_args(",".join(options.model_args))}
    for flag in ("device", "batch_size"):
        if getattr(options, flag) is not None:
            merged[flag] = getattr(options, flag)
    if not merged.get("pretrained"):
        raise GrainsError("no model given; add --model_args pretrained=<folder or hub id>")
    return merged


def chosen_backend(options: argparse.Namespace) -> Any:
    """What `--backend` and `--backend_args` say.

    Raises:
        GrainsError: arguments for no engine.
    """
    from grains_eval.models.loading import parse_model_args
    from grains_eval.study.backends import Backend

    return Backend(options.backend or "hf", parse_model_args(",".join(options.backend_args)))


def recipe_file(config: str) -> Path:
    """Find a recipe: a file, or a bundled behaviour by name (`truthfulqa`, `tasks/truthfulqa/recipe.yaml`).

    Raises:
        GrainsError: neither; the message lists the bundled behaviours.
    """
    if Path(config).is_file():
        return Path(config)
    home = task_directory()
    bundled = {_short_name(file.relative_to(home)): file for file in sorted(home.glob("**/recipe*.yaml"))}
    name = _short_name(Path(config.removeprefix("tasks/")))
    if name not in bundled:
        raise unknown(config, bundled, "recipe (no such file, and no bundled behaviour of that name)")
    return bundled[name]


def _short_name(path: Path) -> str:
    """`toxigen/recipe.yaml` is `toxigen`; a behaviour's other recipes keep their file's name."""
    return path.parent.as_posix() if path.name == "recipe.yaml" else path.as_posix().removesuffix(".yaml")
