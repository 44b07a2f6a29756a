"""The command line: subcommands only; every one is a thin call into the package."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from grains_eval import __version__
from grains_eval.cli import compare, exchange, judge, methods, power, run, vectors
from grains_eval.cli.command import Command, add_plugin_flag, plugin_flags
from grains_eval.cli.errors import exit_code
from grains_eval.errors import USER_ERROR, pick
from grains_eval.plugins import load_plugins

GROUPS: dict[str, tuple[Command, ...]] = {
    "start here": run.START,
    "vectors": vectors.COMMANDS,
    "evaluation": (*run.COMMANDS, *judge.COMMANDS),
    "study": (*compare.COMMANDS, *power.COMMANDS),
    "sharing": exchange.COMMANDS,
    "reference": methods.COMMANDS,
}

NAMES = {command.name: command for commands in GROUPS.values() for command in commands}

EXAMPLES = """examples:
  grains-eval demo
  grains-eval build --config tasks/truthfulqa/recipe.yaml \\
      --model_args pretrained=meta-llama/Llama-3.1-8B-Instruct,dtype=bfloat16 \\
      --output_path steering_vectors/truthfulqa-llama
  lm_eval --model grains_hf --tasks truthfulqa_mc1,mmlu --log_samples --output_path runs/steered \\
      --model_args pretrained=meta-llama/Llama-3.1-8B-Instruct,vectors=steering_vectors/truthfulqa-llama
  grains-eval compare runs/baseline runs/steered

`grains-eval COMMAND --help` explains one command."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that says where to read on."""

    def error(self, message: str) -> NoReturn:
        """End with one line instead of the whole usage."""
        self.exit(USER_ERROR, f"grains-eval: error: {' '.join(message.split())}; see {self.prog} --help\n")

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]  # argparse's are overloads
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse; words that a command does not know are its own error, not the whole program's.

        A misspelt flag is named before the flag that is missing for it.
        """
        words: list[str] = [] if args is None or self._subparsers is not None else [str(word) for word in args]
        for word in words[: words.index("--")] if "--" in words else words:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                close = get_close_matches(flag, self._option_string_actions, n=1)
                self.error(f"unrecognized arguments: {flag}{f'; did you mean {close[0]}?' if close else ''}")
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest


def parser() -> argparse.ArgumentParser:
    """Assemble the parser: one subparser a command, listed by group."""
    listing = "\n\n".join(
        "\n".join([f"{group}:", *(f"  {command.name:<10}{command.summary}" for command in commands)])
        for group, commands in GROUPS.items()
    )
    top = _Parser(
        prog="grains-eval",
        usage="grains-eval COMMAND [options]",
        description=f"Attribution-guided steering of language models inside lm-eval.\n\n{listing}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"grains-eval {__version__}")
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, help=argparse.SUPPRESS, prog="grains-eval"
    )
    for command in NAMES.values():
        sub = commands.add_parser(
            command.name,
            description=command.description or command.summary,
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if command.add_arguments is not None:
            command.add_arguments(sub)
        sub.add_argument(
            "--verbosity",
            default="WARNING",
            choices=("DEBUG", "INFO", "WARNING", "ERROR"),
            help="how much is logged (default WARNING)",
        )
        add_plugin_flag(sub)
        sub.add_argument("--traceback", action="store_true", help="show where an error came from")
        sub.set_defaults(execute=command.execute)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; expected errors become one line and an exit code.

    Args:
        arguments: Without the program's name; default `sys.argv[1:]`.

    Returns:
        0, 1 for a failure that is ours, 2 for one that the user can fix, 130 for an interrupt.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and not words[0].startswith("-"):
        if words[0] not in NAMES:
            return exit_code(lambda: pick(NAMES, words[0], "command"))
        command = NAMES[words[0]]
        if command.add_arguments is None:
            named, others = plugin_flags(words[1:])
            return exit_code(
                lambda: _execute(command.execute, argparse.Namespace(words=others), named),
                traceback="--traceback" in words,
            )
    options = parser().parse_args(words)
    logging.basicConfig(level=options.verbosity, format="%(levelname)s %(name)s: %(message)s")
    if options.verbosity == "WARNING":  # lm-eval warns of every ordinary thing it does with a task
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return exit_code(lambda: _execute(options.execute, options, options.plugin), traceback=options.traceback)


def _execute(command: Callable[[argparse.Namespace], None], options: argparse.Namespace, named: Sequence[str]) -> None:
    load_plugins(named)
    command(options)
