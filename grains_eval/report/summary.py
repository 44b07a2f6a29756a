"""The report in one table: what each method gained, against its strongest control, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence

from grains_eval.comparison.noninferiority import CapabilityVerdict
from grains_eval.comparison.verdict import answer, gain
from grains_eval.report.data import ReportData
from grains_eval.report.formatting import MISSING, change, counted, interval, no_verdict
from grains_eval.types import Comparison

HEADER = ("method", "gain on the target", "against the strongest control", "cost on what must stay")
MOST = 3  # tasks in a cell


def summary(report: ReportData) -> list[tuple[str, ...]]:
    """A row of `HEADER` for each method that has a result; controls have none."""
    return [
        (method, _gain(report, method), _against_control(report, method), _cost(report, method))
        for method in report.methods
        if any(row.comparison.method == method for row in report.rows)
    ]


def _gain(report: ReportData, method: str) -> str:
    rows = [row.comparison for row in report.rows if row.comparison.method == method and row.key in report.targets]
    if not rows:
        return "no target was evaluated"
    rows.sort(key=lambda row: gain(row.difference, row.higher_is_better), reverse=True)
    return _listed([_result(row, report.alpha, named=len(rows) > 1) for row in rows])


def _against_control(report: ReportData, method: str) -> str:
    if not report.controls:
        return "no controls"
    found = [each for each in report.against_controls if each.method == method]
    if not found:
        return "no gain to compare"
    several = len(report.targets) > 1
    return _listed(
        [f"{each.control}: {_result(each.row.comparison, report.alpha, named=several, sized=False)}" for each in found]
    )


def _cost(report: ReportData, method: str) -> str:
    verdicts = [verdict for verdict in report.verdicts if verdict.method == method]
    if not verdicts:
        return "nothing was declared"
    if all(verdict.answer == "kept" and verdict.units_needed is None for verdict in verdicts):
        return f"kept: {_listed([_loss(verdict) for verdict in verdicts])}"
    order = {"lost": 0, "cannot tell": 1, "no verdict": 2, "kept": 3}
    said = sorted(((_answer(verdict), _loss(verdict)) for verdict in verdicts), key=lambda pair: order[pair[0]])
    return _listed([f"{found}: {loss}" for found, loss in said])


def _answer(verdict: CapabilityVerdict) -> str:
    return "no verdict" if verdict.units_needed is not None else verdict.answer


def _loss(verdict: CapabilityVerdict) -> str:
    bounds = interval(verdict.interval, verdict.scale)
    return f"{verdict.task} {change(verdict.gain, verdict.scale)}{'' if bounds == MISSING else f' ({bounds})'}"


def _result(row: Comparison, alpha: float, *, named: bool, sized: bool = True) -> str:
    said = "no verdict" if no_verdict(row) else answer(row, alpha)
    low, high = row.interval
    turned = (-high, -low) if row.higher_is_better is False else (low, high)
    bounds = "" if no_verdict(row) else f" ({interval(turned, row.scale)})"
    name = f"{row.task} {row.metric} " if named else ""
    size = f", {counted(row.n, row.clusters)}" if sized else ""
    return f"{name}{change(gain(row.difference, row.higher_is_better), row.scale)}{bounds}, {said}{size}"


def _listed(texts: Sequence[str]) -> str:
    return "; ".join([*texts[:MOST], *([f"{len(texts) - MOST} more"] if len(texts) > MOST else [])])
