"""The paper's own figures, to stand beside a user's: never mixed into the results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from grains_eval.report.data import ReportData


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper.

    Attributes:
        title: Benchmark and unit.
        header: Column headings.
        rows: Cells as printed.
        source: Citation, with what differs.
        tasks: The user's own tasks that it stands beside.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    source: str
    tasks: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def _file() -> dict[str, Any]:
    text = resources.files("grains_eval.report").joinpath("published.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def published_tables(report: ReportData) -> list[PublishedTable]:
    """Tables of the benchmarks that this report compares, the most specific entry of each.

    A study may ask for others by name: `extra["published"] = ["attribution"]`.
    """
    asked = [str(name) for name in report.extra.get("published", ())]
    names = [*dict.fromkeys(row.comparison.task for row in report.rows), *asked]
    content = _file()
    matched: dict[int, list[str]] = {}
    for name in names:
        best = max(range(len(content["tables"])), key=lambda index: _fit(content["tables"][index], name))
        if _fit(content["tables"][best], name):
            matched.setdefault(best, []).append(name)
    return [
        PublishedTable(
            title=content["tables"][index]["title"],
            header=tuple(content["tables"][index]["header"]),
            rows=tuple(tuple(map(str, row)) for row in content["tables"][index]["rows"]),
            source=" ".join(content["source"].split()),
            tasks=tuple(found),
        )
        for index, found in sorted(matched.items())
    ]


def _fit(table: dict[str, Any], name: str) -> int:
    """Length of the longest prefix in `match` that the task's name starts with; 0 for none."""
    plain = name.lower().replace("-", "_").removeprefix("grains_")
    return max((len(prefix) for prefix in table["match"] if plain.startswith(prefix)), default=0)
