"""`demo` runs the bundled worlds; `run` is lm-eval's own command line with our model and tasks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from grains_eval import _lm_eval_hook
from grains_eval.cli.command import Command, add_output_flags, names

RUN_HELP = """`grains-eval run` hands everything to `lm-eval run`, with `--model grains_hf` by default.
It needs no registration hook. grains_hf adds to the --model_args of `hf`:
  vectors=FOLDER or HUB_ID[@REVISION], several joined with +
  strength=, layers=, unit=, operator=, positions=

"""


def run_lm_eval(words: Sequence[str]) -> None:
    """Register our model and tasks, then let lm-eval's command line do the rest.

    Args:
        words: Flags of `lm-eval run`.
    """
    _lm_eval_hook.install()
    from lm_eval.__main__ import cli_evaluate

    if not words or {"-h", "--help"}.intersection(words):
        sys.stdout.write(RUN_HELP)
    rest = [word for word in words if word != "--traceback"]
    flags = {word.partition("=")[0] for word in rest}
    model = [] if not rest or flags & {"--model", "-M", "--config", "-C"} else ["--model", "grains_hf"]
    sys.argv = ["lm-eval", "run", *model, *rest]
    cli_evaluate()


def _run(options: argparse.Namespace) -> None:
    run_lm_eval(options.words)


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worlds", type=names, metavar="A,B", help="only these worlds (default: all bundled ones)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="report again on vectors and runs that are there; an interrupted demo goes on without it",
    )
    add_output_flags(parser, "where vectors, runs and the report go", "runs/demo")


def _demo(options: argparse.Namespace) -> None:
    # a hundred bars of a second each say nothing; read when tqdm is first imported
    os.environ.setdefault("TQDM_DISABLE", "1")
    from grains_eval.cli.terminal import bars, output
    from grains_eval.demo.run import run_demo
    from grains_eval.study.session import OutputFolder

    place = OutputFolder(options.output_path, options.overwrite, options.resume)
    run_demo(place, output(), worlds=options.worlds, progress=bars)


START = (
    Command(
        "demo",
        "build, evaluate and compare on the bundled models",
        "grains-eval demo",
        _demo_arguments,
        _demo,
        "Build vectors on the bundled models, evaluate with and without them through lm_eval, and print\n"
        "the tables. Needs no download and no GPU.",
    ),
)
COMMANDS = (
    Command(
        "run",
        "lm-eval's own command line with grains_hf and our tasks",
        "grains-eval run --model_args pretrained=org/name,vectors=FOLDER,strength=1.0 --tasks truthfulqa_mc1",
        None,
        _run,
    ),
)
