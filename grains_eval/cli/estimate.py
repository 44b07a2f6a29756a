"""`build --estimate`: what a build will take, one number a line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from grains_eval.errors import GrainsError

if TYPE_CHECKING:
    from grains_eval.recipes import Recipe
    from grains_eval.study.estimate import Devices, Estimate

_FLAGS = ("device_memory", "device_tflops", "prompt_tokens", "response_tokens")
_KINDS = {True: "with", False: "without"}
_DEFAULT_MEMORY = "24,80,4x24,4x80"


def add_estimate_flags(parser: argparse.ArgumentParser) -> None:
    """`--estimate` and what goes with it."""
    group = parser.add_argument_group("estimate")
    group.add_argument(
        "--estimate",
        action="store_true",
        help="build nothing; print memory, passes and operations from the configuration",
    )
    group.add_argument(
        "--device_memory", metavar="GB,NxGB", help=f"devices to fit into, in GB each (default {_DEFAULT_MEMORY})"
    )
    group.add_argument(
        "--device_tflops",
        type=float,
        metavar="T",
        help="what one device sustains, in 10^12 operations a second: prints time",
    )
    group.add_argument(
        "--prompt_tokens",
        type=int,
        metavar="N",
        help="take all prompts for so long, and read neither data nor tokenizer",
    )
    group.add_argument("--response_tokens", type=int, metavar="N", help="likewise for responses (default 16)")


def check_estimate_flags(options: argparse.Namespace) -> None:
    """Refuse flags that mean nothing without `--estimate`, and numbers that are none.

    Raises:
        GrainsError: either.
    """
    for flag in _FLAGS:
        value = getattr(options, flag)
        if value is not None and not options.estimate:
            raise GrainsError(f"--{flag} is for --estimate; add it")
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            raise GrainsError(f"--{flag} {value:g} is not a number above 0")
    if options.response_tokens is not None and options.prompt_tokens is None:
        raise GrainsError("--response_tokens needs --prompt_tokens: either both are given or the data is read")
    if not options.estimate and options.output_path is None:
        raise GrainsError("no folder to write; add --output_path FOLDER, or --estimate")


def print_estimate(recipe: Recipe, model_args: dict[str, Any], options: argparse.Namespace) -> None:
    """Estimate and print.

    Raises:
        GrainsError: see `study.estimate`.
    """
    from grains_eval.cli.terminal import output
    from grains_eval.study.estimate import estimate, parse_devices

    devices = [parse_devices(part) for part in (options.device_memory or _DEFAULT_MEMORY).split(",")]
    lengths = None if options.prompt_tokens is None else (options.prompt_tokens, options.response_tokens or 16)
    found = estimate(recipe, model_args, options.include_path, lengths)
    console = output()
    for name, value in lines(found, devices, options.device_tflops):
        console.print(f"{name:<40}{value}", highlight=False, markup=False, soft_wrap=True)


def lines(found: Estimate, devices: Sequence[Devices], tflops: float | None = None) -> Iterator[tuple[str, str]]:
    """Name and value of every number."""
    from grains_eval.study.passes import tokens, total

    longest = found.longest
    yield "model", f"{found.name}, {found.parameters / 1e9:.3g} billion parameters, {found.dtype}"
    yield "longest example", f"{longest.prompt} prompt tokens, responses of {longest.chosen} and {longest.rejected}"
    yield "weights", _gib(found.weights)
    yield "activations", f"{_gib(found.peak.activations)} a row, {found.rows} rows a pass at most"
    yield "gradients", f"{_gib(found.peak.gradients)} a row, of embeddings; parameters have none"
    yield "logits", f"{_gib(found.peak.fixed)} at a time"
    yield "peak, one row", _gib(found.needed(1))
    yield f"peak, {found.rows} rows", _gib(found.needed(found.rows))
    for phase in found.phases:
        runs = {"": phase.least, ", at most": phase.most} if phase.least != phase.most else {"": phase.least}
        for how, those in runs.items():
            if those:
                counted = {name: total(those, backward=on) for on, name in _KINDS.items()}
                made = [f"{count:,} passes {name} gradient" for name, count in counted.items() if count]
                spent = _flop(sum(run.operations(found.cost) for run in those))
                yield f"{phase.name}{how}", f"{', '.join(made)}, {tokens(those):,} tokens, {spent}"
    if found.vision[0]:
        for how, spent in {"": found.vision[0], ", at most": found.vision[1]}.items():
            if not how or found.vision[0] != spent:
                yield f"vision tower{how}", f"about {_flop(spent)}"
    least, most = found.operations()
    yield "operations", _flop(least) if least == most else f"{_flop(least)} to {_flop(most)}"
    yield (
        "evaluation",
        (f"{_flop(1000 * found.cost.token)} per 1,000 tokens, {found.cache / 1024:.4g} KiB of keys and values a token"),
    )
    for each in devices:
        fit = found.fit(each)
        answer = f"yes, {fit.rows} rows a pass, {fit.advice}" if fit.rows else f"no: {fit.advice}"
        yield f"fits {each}", answer
    if tflops is not None:
        yield "time", f"{_time(least / tflops / 1e12)} to {_time(most / tflops / 1e12)} at {tflops:g} TFLOP/s"
    for note in found.notes:
        yield "note", note


def _gib(count: float) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.3g} MiB"


def _flop(count: float) -> str:
    for size, unit in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e6:.3g} MFLOP"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.2g} hours"
    return f"{seconds / 60:.2g} minutes" if seconds >= 60 else f"{seconds:.2g} seconds"
