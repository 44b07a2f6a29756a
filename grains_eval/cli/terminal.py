"""What the terminal shows: tables, and progress bars with rate and remaining time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")

LINE_EVERY = 10.0  # seconds between lines in a log file
FILE_WIDTH = 140  # columns of a table that goes to a file or a pipe


def output() -> Console:
    """Standard output for tables: as wide as the terminal, and wide enough for them where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


class RateColumn(ProgressColumn):
    """Items per second, or seconds per item when that reads better."""

    def render(self, task: Task) -> Text:
        """Draw the rate of one bar."""
        return Text(rate(task.speed or 0.0), style="progress.data.speed")


def rate(speed: float) -> str:
    """Write a speed in items per second for people."""
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def bars(items: Sequence[T], description: str) -> Iterator[T]:
    """Go through items and show how far one is, on stderr: a bar, or lines where it is not a terminal.

    Args:
        items: What is worked on, one by one.
        description: What is done with them.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from _lines(items, description, console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield from progress.track(items, description=description)


def _lines(items: Sequence[T], description: str, console: Console) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - last >= LINE_EVERY:
            speed, last = done / (now - start), now
            left = (len(items) - done) / speed
            console.print(f"{description}: {done}/{len(items)}, {rate(speed)}, {left:.0f} s left", highlight=False)
        yield item
    spent = time.monotonic() - start
    console.print(f"{description}: {len(items)}/{len(items)} in {spent:.1f} s", highlight=False)
