"""`power`: how many items a comparison needs, and what a number of items can show."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grains_eval.cli.command import Command, names
from grains_eval.errors import GrainsError

if TYPE_CHECKING:
    from grains_eval.report.sample_size import Plan, Spread

# What may be given in place of a pilot, with the range that makes sense.
_SHARES = ("discordant", "alpha", "power")
_WIDE = 110  # columns that the whole table of a pilot takes
_POSITIVE = ("sd", "difference", "design_effect", "n")


def _arguments(parser: argparse.ArgumentParser) -> None:
    pilot = parser.add_argument_group("from a pilot")
    pilot.add_argument(
        "pilot", nargs="*", metavar="FOLDER", help="a folder that compare wrote, or run folders, the baseline first"
    )
    pilot.add_argument("--tasks", "-t", type=names, metavar="A,B", help="only these tasks or groups")
    pilot.add_argument("--metrics", type=names, metavar="A,B", help="only these metrics, without filter (acc)")
    numbers = parser.add_argument_group("from numbers")
    numbers.add_argument("--discordant", type=float, metavar="SHARE", help="0/1 metric: share of items that change")
    numbers.add_argument("--sd", type=float, help="other metrics: standard deviation of the per-item differences")
    numbers.add_argument(
        "--design_effect", type=float, metavar="F", help="with --sd: squared ratio of clustered to naive standard error"
    )
    numbers.add_argument(
        "--unbounded", action="store_true", help="with --sd: scores have no bounds (default: they lie between 0 and 1)"
    )
    wanted = parser.add_argument_group("what is asked")
    wanted.add_argument(
        "--difference",
        type=float,
        metavar="D",
        help="the smallest difference that matters, in units of the metric: 0.03 is three points of a share "
        "(default: the pilot's own difference)",
    )
    wanted.add_argument("--n", type=int, metavar="ITEMS", help="tell what this many items find")
    wanted.add_argument("--power", type=float, default=0.8, metavar="SHARE", help="wanted power (default 0.8)")
    wanted.add_argument("--alpha", type=float, default=0.05, metavar="SHARE", help="level of the test (default 0.05)")


def _power(options: argparse.Namespace) -> None:
    for flag in _SHARES:
        value = getattr(options, flag)
        if value is not None and not 0 < value < 1:
            raise GrainsError(f"--{flag} {value:g} is no share; give a number above 0 and below 1")
    for flag in _POSITIVE:
        value = getattr(options, flag)
        if value is not None and not 0 < value < math.inf:
            raise GrainsError(f"--{flag} {value:g} asks for nothing; give a number above 0")
    if not options.power > options.alpha:
        raise GrainsError(f"--power {options.power:g} is reached by chance; give one above the level {options.alpha:g}")
    if options.pilot:
        _from_pilot(options)
    else:
        _from_numbers(options)


def _from_pilot(options: argparse.Namespace) -> None:
    given = [flag for flag in ("discordant", "sd", "design_effect") if getattr(options, flag) is not None]
    if given:
        raise GrainsError(f"--{given[0]} is what a pilot tells; leave it out, or leave the folders out")
    from rich.markup import escape

    from grains_eval.cli.terminal import output
    from grains_eval.report.sample_size import plan, read_pilot

    rows = read_pilot(options.pilot, alpha=options.alpha, tasks=options.tasks, metrics=options.metrics)
    if not rows:
        raise GrainsError("the pilot holds no comparison; run it on more tasks, or drop --tasks and --metrics")
    if options.difference and options.difference > 1 and any(row.scale == 1 for row in rows):
        raise GrainsError(
            f"--difference {options.difference:g} is more than a share can differ; 0.03 is three points, "
            "or choose other metrics with --metrics"
        )
    asked: dict[str, Any] = {"n": options.n, "alpha": options.alpha, "power": options.power}
    plans = [plan(row, effect=options.difference, **asked) for row in rows]
    console = output()
    console.print(_table(plans, options, narrow=console.width < _WIDE))
    console.print(
        f"Level {options.alpha:g}, before any adjustment: for Holm over m rows give --alpha {options.alpha:g}/m. "
        "The pilot's spread is taken for the true one."
        + ("" if options.difference else " So is its difference, which chance moved: better give --difference."),
        style="dim",
        highlight=False,
    )
    for each in plans:
        if each.reason:
            row = each.pilot
            console.print(f"{escape(f'{row.method}, {row.task} {row.metric}: {each.reason}')}", highlight=False)


def _table(plans: Sequence[Plan], options: argparse.Namespace, narrow: bool = False) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from grains_eval.report.formatting import MISSING, change, level, number, rounded
    from grains_eval.report.tables import add_column

    # A narrow terminal goes without the pilot's own numbers.
    left_out = {"n", "difference"} if narrow else set[str]()
    at = f"n = {options.n:,}" if options.n else "the pilot's n"
    named = ("task", "metric", "method")
    numeric = (
        "n",
        "difference",
        "planned for",
        f"items for power {options.power:g}",
        f"power at {at}",
        f"found at {at} with power {options.power:g}",
    )
    table = Table(padding=(0, 0) if narrow else (0, 1))
    for name in (*named, *numeric):
        if name not in left_out:
            add_column(table, name, numeric=name in numeric, fold=name in named)
    for each in plans:
        row = each.pilot
        cells = (
            row.task,
            row.metric,
            row.method,
            f"{row.n:,}",
            change(row.difference, row.scale),
            level(each.effect, row.scale),
            MISSING if each.needed is None else rounded(each.needed),
            number(each.power, 2),
            level(each.detectable, row.scale),
        )
        texts = dict(zip((*named, *numeric), cells, strict=True))
        table.add_row(*(escape(text) for name, text in texts.items() if name not in left_out))
    return table


def _from_numbers(options: argparse.Namespace) -> None:
    if (options.discordant is None) == (options.sd is None):
        raise GrainsError("power takes a pilot's folder, or --discordant (0/1 metrics), or --sd (other metrics)")
    if options.unbounded and options.sd is None:
        raise GrainsError("--unbounded goes with --sd; 0/1 metrics have bounds")
    if options.tasks or options.metrics:
        raise GrainsError("--tasks and --metrics choose among a pilot's rows; give its folder, or leave them out")
    if options.design_effect is not None and options.sd is None:
        raise GrainsError("--design_effect goes with --sd; items of a 0/1 metric in clusters have a --sd too")
    if options.difference is None and options.n is None:
        raise GrainsError("nothing is asked; give --difference (how many items?), --n (what do they find?), or both")
    if options.discordant is not None and options.difference is not None and options.difference > 1:
        raise GrainsError(f"--difference {options.difference:g} is more than a share can differ; 0.03 is three points")
    from grains_eval.cli.terminal import output
    from grains_eval.report.sample_size import Spread

    if options.discordant is not None:
        spread, test = Spread(discordant=options.discordant), "exact McNemar"
    else:
        bounded = not options.unbounded and options.design_effect is None
        spread = Spread(deviation=options.sd * math.sqrt(options.design_effect or 1.0), bounded=bounded)
        test = "betting" if bounded else "t, which the bootstrap is near"
    console = output()
    for line in _lines(spread, options):
        console.print(line, highlight=False)
    console.print(f"{test}, two-sided, level {options.alpha:g}, before any adjustment", style="dim", highlight=False)


def _lines(spread: Spread, options: argparse.Namespace) -> list[str]:
    from grains_eval.report.formatting import MANY

    lines: list[str] = []
    if options.difference is not None:
        needed = spread.needed(options.difference, options.alpha, options.power)
        many = f"{needed:,}" if needed <= MANY else "more than a million"
        lines.append(f"a difference of {options.difference:g} needs {many} items for power {options.power:g}")
    if options.n is not None:
        items = "1 item finds" if options.n == 1 else f"{options.n:,} items find"
        if options.difference is not None:
            found = spread.power(options.difference, options.n, options.alpha)
            lines.append(f"{items} a difference of {options.difference:g} with power {found:.2f}")
        least = spread.detectable(options.n, options.alpha, options.power)
        lines.append(
            f"{items} a difference of {least:.3g} with power {options.power:g}"
            if math.isfinite(least)
            else f"{items} no difference with power {options.power:g}"
        )
    return lines


COMMANDS = (
    Command(
        "power",
        "how many items a comparison needs, or what it can show",
        "grains-eval power --discordant 0.1 --difference 0.03",
        _arguments,
        _power,
        "How many items a comparison needs to show a difference, and what a number of items can show:\n"
        "from a pilot (a folder that compare wrote, or run folders), or from numbers.",
    ),
)
