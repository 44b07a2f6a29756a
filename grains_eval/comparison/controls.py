"""Control runs: which they are, how far their draws range, and which methods do better than the strongest of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from grains_eval.comparison.estimates import Row, adjust
from grains_eval.comparison.runs import Run
from grains_eval.comparison.settings import Analysis, check_known
from grains_eval.comparison.two_runs import compare_pair
from grains_eval.comparison.verdict import answer, gain


@dataclass(frozen=True)
class Band:
    """Several draws of one control, shown as a range.

    Attributes:
        label: Name of the control.
        members: The runs that are its draws.
        low: Smallest difference to the baseline, by task and metric.
        mean: Mean difference.
        high: Largest difference.
    """

    label: str
    members: tuple[str, ...]
    low: Mapping[tuple[str, str], float]
    mean: Mapping[tuple[str, str], float]
    high: Mapping[tuple[str, str], float]

    @property
    def heading(self) -> str:
        """The label with the number of draws."""
        return f"{self.label}, {len(self.members)} draw{'' if len(self.members) == 1 else 's'}"


@dataclass(frozen=True)
class AgainstControl:
    """A method compared with the strongest control instead of with the baseline.

    Attributes:
        method: The method.
        control: The control with the largest gain.
        row: Their comparison; the control is its baseline.
    """

    method: str
    control: str
    row: Row


def control_names(runs: Sequence[Run], given: Collection[str] | None, strict: bool = True) -> set[str]:
    """The runs that are controls, by their names in the tables.

    Args:
        runs: All but the baseline.
        given: Names of controls, as in the tables or as their folders; None takes the runs whose artifacts say so.
        strict: Whether every given name must be a run's.

    Raises:
        GrainsError: a name that no run has.
    """
    if given is None:
        return {run.name for run in runs if run.kinds & {"control", "projection"}}
    folders = {run.name: run.name.partition(" (")[0] for run in runs}
    if strict:
        check_known(list(given), [*folders, *folders.values()], "control run")
    return {name for name, folder in folders.items() if name in given or folder in given}


def against_controls(
    rows: Sequence[Row],
    runs: Sequence[Run],
    controls: Collection[str],
    targets: Collection[str],
    analysis: Analysis,
    beside: Mapping[str, Collection[str]],
) -> tuple[tuple[AgainstControl, ...], list[str]]:
    """Each method that is better than the baseline, compared with the control that gained most; and notes.

    Where controls stand beside methods (`beside`), those at a method's own setting count, and those that stand beside
    none. Vectors with the vocabulary direction projected out are not counted as rivals: that a method is as good
    without that direction is in its favour.

    Args:
        rows: One adjusted row per run and task.
        runs: The runs behind them.
        controls: Names of control runs.
        targets: Tasks that were to improve.
        analysis: How runs are compared.
        beside: Method to the controls at its own setting.
    """
    by_name = {run.name: run for run in runs}
    placed = {name for names in beside.values() for name in names}
    found: list[AgainstControl] = []
    notes: list[str] = []
    for row in rows:
        mine = row.comparison
        if mine.method in controls or mine.task not in targets or answer(mine, analysis.alpha) != "better":
            continue
        rivals = [
            other.comparison
            for other in rows
            if other.comparison.method in controls
            and other.comparison.method not in placed.difference(beside.get(mine.method, placed))
            and "projection" not in by_name[other.comparison.method].kinds
            and other.key == row.key
        ]
        if not rivals:
            continue
        rival = max(rivals, key=lambda other: gain(other.difference, other.higher_is_better)).method
        alone = replace(analysis, tasks=(mine.task,), metrics=(mine.metric.partition(",")[0],))
        pair, said = compare_pair(by_name[rival], by_name[mine.method], alone)
        notes.extend(said)
        found.extend(AgainstControl(mine.method, rival, one) for one in pair if one.key == row.key)
    adjusted = adjust([item.row for item in found], alpha=analysis.alpha)
    return tuple(replace(item, row=row) for item, row in zip(found, adjusted, strict=True)), notes


def draw_ranges(bands: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> tuple[Band, ...]:
    """The range of each control that has several draws."""
    made: list[Band] = []
    for label, members in bands.items():
        draws: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            if row.comparison.method in members:
                draws.setdefault(row.key, []).append(row.comparison.difference)
        made.append(
            Band(
                label=label,
                members=tuple(members),
                low={key: min(values) for key, values in draws.items()},
                mean={key: math.fsum(values) / len(values) for key, values in draws.items()},
                high={key: max(values) for key, values in draws.items()},
            )
        )
    return tuple(made)
