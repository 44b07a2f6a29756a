"""How many items a comparison needs: from a pilot run, or from a guess."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from grains_eval.comparison.logs import read_runs
from grains_eval.comparison.many_runs import compare_all
from grains_eval.comparison.power import (
    betting_detectable_effect,
    betting_items_needed,
    betting_power,
    items_needed,
    mcnemar_detectable_effect,
    mcnemar_items_needed,
    mcnemar_power,
    minimum_detectable_effect,
    t_power,
)
from grains_eval.comparison.settings import Analysis, check_alpha, check_known
from grains_eval.errors import GrainsError
from grains_eval.types import Comparison

_COUNTS = ("clusters", "units_needed", "most_rows")
FEW_MOVED = 10  # with fewer changed items in the pilot run, the share of items that change is too uncertain


@dataclass(frozen=True)
class Spread:
    """How much items vary, which decides how many are needed.

    Attributes:
        discordant: Share of discordant pairs, items that change either way, for a 0/1 metric of independent items; else
            None.
        deviation: Standard deviation of the per-item differences, clusters included.
        items_per_cluster: 1 where items are independent.
        bounded: Whether the test is the betting test of independent items with bounded scores.
    """

    discordant: float | None = None
    deviation: float = math.nan
    items_per_cluster: float = 1.0
    bounded: bool = False

    def needed(self, effect: float, alpha: float, power: float) -> int:
        """Items that find an effect.

        Raises:
            GrainsError: no number does, or more items would have to change than do.
        """
        if self.discordant is not None:
            return mcnemar_items_needed(*self._shares(effect), alpha=alpha, power=power)
        if self.bounded:
            return betting_items_needed(effect, self.deviation, alpha=alpha, power=power)
        return items_needed(effect, self.deviation, alpha=alpha, power=power, items_per_cluster=self.items_per_cluster)

    def power(self, effect: float, n: int, alpha: float) -> float:
        """Chance to find an effect with n items."""
        if self.discordant is not None:
            return mcnemar_power(*self._shares(effect), n, alpha=alpha)
        if self.bounded:
            return betting_power(effect, self.deviation, n, alpha=alpha)
        df = n / self.items_per_cluster - 1
        return t_power(effect, self.deviation / math.sqrt(n), df, alpha=alpha) if df >= 1 else 0.0

    def detectable(self, n: int, alpha: float, power: float) -> float:
        """The smallest effect that n items find, NaN where there is none."""
        if self.discordant is not None:
            return mcnemar_detectable_effect(self.discordant, n, alpha=alpha, power=power)
        if self.bounded:
            return betting_detectable_effect(self.deviation, n, alpha=alpha, power=power)
        df = n / self.items_per_cluster - 1
        return minimum_detectable_effect(self.deviation / math.sqrt(n), df, alpha=alpha, power=power)

    def _shares(self, effect: float) -> tuple[float, float]:
        discordant = self.discordant or 0.0
        if abs(effect) > discordant:
            raise GrainsError(
                f"a difference of {abs(effect):g} needs as many items that change, but only {discordant:g} of them do; "
                "give a smaller difference or a larger share"
            )
        return (discordant + abs(effect)) / 2, (discordant - abs(effect)) / 2


@dataclass(frozen=True)
class Plan:
    """A row of a pilot run, and the sample size that it implies for a larger run.

    Attributes:
        pilot: The row.
        effect: Difference that is planned for, without its sign.
        needed: Items for the wanted power; None where `reason` says why there is no number.
        n: Items for which `power` and `detectable` hold.
        power: Chance to find `effect` with `n` items.
        detectable: Difference that `n` items find with the wanted power.
        reason: Why something is missing or in doubt.
    """

    pilot: Comparison
    effect: float
    needed: int | None
    n: int
    power: float
    detectable: float
    reason: str = ""


def read_pilot(
    places: Sequence[str | Path],
    *,
    alpha: float = 0.05,
    tasks: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> list[Comparison]:
    """The rows of a pilot run: a folder that `compare` wrote, or run folders, the baseline first.

    Raises:
        GrainsError: neither, or a task or metric that the pilot lacks.
    """
    if len(places) > 1:
        analysis = Analysis(alpha=alpha, tasks=tasks, metrics=metrics)
        runs, _ = read_runs(places)
        return [row.comparison for row in compare_all(runs, analysis).rows]
    place = Path(places[0])
    file = place / "report.json" if place.is_dir() else place
    if file.name != "report.json" or not file.is_file():
        raise GrainsError(
            f"'{place}' holds no report.json; give a folder that compare wrote, or two run folders, the baseline first"
        )
    try:
        rows = [_comparison(row) for row in json.loads(file.read_text(encoding="utf-8"))["comparisons"]]
    except (ValueError, KeyError, TypeError) as error:
        raise GrainsError(f"'{file}' is not a report of compare ({error}); write it again with compare") from error
    check_known(metrics, {row.metric.partition(",")[0] for row in rows})
    check_known(tasks, {row.task for row in rows}, what="task")
    return [
        row
        for row in rows
        if (tasks is None or row.task in tasks) and (metrics is None or row.metric.partition(",")[0] in metrics)
    ]


def _comparison(row: dict[str, Any]) -> Comparison:
    known: dict[str, Any] = {field.name: row[field.name] for field in fields(Comparison)}
    low, high = (math.nan if end is None else end for end in known["interval"])
    # JSON has no NaN; only counts may be missing
    known |= {key: math.nan for key, value in known.items() if value is None and key not in _COUNTS}
    known["interval"] = (low, high)
    return Comparison(**known)


def plan(
    pilot: Comparison, *, effect: float | None = None, n: int | None = None, alpha: float = 0.05, power: float = 0.8
) -> Plan:
    """The sample size that a row of a pilot run implies, with its spread taken for the true one.

    Args:
        pilot: The row.
        effect: Difference to plan for, in units of the metric; default: the observed one.
        n: Items to tell power and detectable effect for; default: the pilot's.
        alpha: Level of the test.
        power: Wanted chance to find the effect.
    """
    check_alpha(alpha)
    wanted = abs(pilot.difference if effect is None else effect)
    count = pilot.n if n is None else n
    if pilot.test == "exact McNemar":
        spread = Spread(discordant=(pilot.helped + pilot.harmed) / pilot.n)
    else:
        per_cluster = pilot.n / pilot.clusters if pilot.clusters else 1.0
        spread = Spread(
            deviation=pilot.standard_error * math.sqrt(pilot.n),
            items_per_cluster=per_cluster,
            bounded=pilot.test == "betting" and pilot.scale == 1,
        )
    empty = Plan(pilot, wanted, None, count, math.nan, math.nan)
    if not (spread.discordant or spread.deviation > 0):
        return replace(empty, reason="the pilot's items did not vary")
    detectable = spread.detectable(count, alpha, power)
    if wanted == 0:
        return replace(empty, detectable=detectable, reason="the pilot shows no difference")
    try:
        needed = spread.needed(wanted, alpha, power)
    except GrainsError as error:
        return replace(empty, detectable=detectable, reason=str(error).partition(";")[0])
    moved = pilot.helped + pilot.harmed
    doubt = f"only {moved} of {pilot.n:,} items moved, so the spread is little known" if moved < FEW_MOVED else ""
    return Plan(pilot, wanted, needed, count, spread.power(wanted, count, alpha), detectable, doubt)
