"""What a judge found, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from grains_eval.judging.pairwise import PairSummary
from grains_eval.judging.pointwise import Summary


def show_ratings(found: Summary, console: Any) -> None:
    """Print means, by part where the rubric asks for it, and how many items have no verdict."""
    table = Table(title=escape(f"{found.task}, judged by {found.judge}, {found.count:,} items"), title_justify="left")
    table.add_column("")
    table.add_column("items", justify="right")
    for metric in found.means:
        table.add_column(escape(metric.removeprefix("judge_").replace("_", " ")), justify="right")
    for name, (count, means) in {**found.parts, "all": (found.count, found.means)}.items():
        table.add_row(escape(name), str(count), *(_number(value) for value in means.values()))
    console.print(table)
    console.print(_missing(found.reasons, found.count, "items"), highlight=False)
    if any(metric.endswith("_official") for metric in found.means):
        console.print("official: the benchmark's own rule, which counts these as its worst rating", highlight=False)
    console.print(f"joined to the run as {found.file}", highlight=False, markup=False, soft_wrap=True)


def show_preferences(found: PairSummary, console: Any) -> None:
    """Print wins and losses, what the order did, and how many verdicts are missing."""
    first, second = (folder.name for folder in found.folders)
    ties = found.bias.items - found.wins - found.losses
    bias = found.bias
    console.print(f"{found.task}, judged by {found.judge}, {found.count:,} items in both orders", highlight=False)
    console.print(
        f"{second} against {first}: {found.wins} won, {found.losses} lost, {ties} undecided; preferred "
        f"{_number(found.preferred)} (0.5 is no difference)",
        highlight=False,
        markup=False,
    )
    console.print(
        f"position: the order alone decided {bias.by_order} of {bias.items} items, {bias.first} times for the first "
        f"answer (p {bias.p:.2g} against neither place being favoured)",
        highlight=False,
    )
    console.print(_missing(found.reasons, 2 * found.count, "verdicts"), highlight=False)
    folders = " ".join(map(str, found.folders))
    console.print(f"compare them with: grains-eval compare {folders}", highlight=False, markup=False, soft_wrap=True)


def _missing(reasons: Mapping[str, int], count: int, what: str) -> str:
    if not reasons:
        return f"all {count:,} {what} have a verdict" if what == "items" else f"all {count:,} {what} could be read"
    named = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
    return (
        f"no verdict: {sum(reasons.values())} of {count:,} {what} ({named}); they count in no mean but the official one"
    )


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"
