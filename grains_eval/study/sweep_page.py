"""What a sweep's page shows: the chosen setting of each curve, the curves, and every setting that was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from grains_eval.report.data import CurvePage, StudyTable
from grains_eval.report.formatting import number
from grains_eval.study.report_parts import accuracy_interval, strength_curves
from grains_eval.study.tune import Choice, CurvePoint
from grains_eval.types import SteeringConfig, TokenConfig

_NOTE = (
    "Means on development examples, none of them reported, with 95 % intervals where there is room; log p in nats, "
    "given the prompt."
)


def sweep_page(choices: Mapping[str, Choice], best: str, notes: Sequence[str]) -> CurvePage:
    """The page of a sweep.

    Args:
        choices: The chosen setting and its curve, by what was varied.
        best: Key of the best-ranked choice.
        notes: What a careful reader should know of the development examples.
    """
    chosen = choices[best]
    where = _setting(chosen.point, chosen.points[0])
    return CurvePage(
        title="Sweep on development items",
        headline=f"Chosen: {best}, {where}: {chosen.reason}.",
        summary=(_summary(choices, best),),
        curves=tuple(
            figure
            for name, choice in choices.items()
            for figure in strength_curves(name, [point_numbers(point, choice) for point in choice.points])
        ),
        notes=tuple(notes),
        tables=tuple(_every_setting(name, choice) for name, choice in choices.items()),
    )


def point_numbers(point: CurvePoint, choice: Choice) -> dict[str, Any]:
    """A point of a curve as JSON values."""
    return {**setting_values(point.config), **point.numbers(), "is_chosen": point is choice.point}


def setting_values(config: SteeringConfig | TokenConfig) -> dict[str, Any]:
    """A setting as JSON values, which know no infinity: found tokens that are off have no strength."""
    return {**asdict(config), "strength": config.strength if isfinite(config.strength) else None}


def _summary(choices: Mapping[str, Choice], best: str) -> StudyTable:
    header = ("varied", "chosen", "unsteered accuracy", "accuracy", "interval", "log p(y+)", "preserved accuracy", "n")
    rows = [
        (
            f"{name} (best)" if name == best and len(choices) > 1 else name,
            _setting(choice.point, choice.points[0]),
            number(choice.points[0].accuracy, 3),
            *_numbers(choice.point),
            str(choice.point.n),
        )
        for name, choice in choices.items()
    ]
    return StudyTable("What was chosen", header, tuple(rows), _NOTE)


def _every_setting(name: str, choice: Choice) -> StudyTable:
    header = ("setting", "accuracy", "interval", "log p(y+)", "preserved accuracy", "margin", "log p(y−)", "")
    rows = [
        (
            _setting(point, choice.points[0]),
            *_numbers(point),
            number(point.margin, 2),
            number(point.log_p_rejected, 2),
            "chosen" if point is choice.point else "",
        )
        for point in choice.points
    ]
    return StudyTable(f"Every setting of {name}", header, tuple(rows), f"{choice.reason or 'Nothing was chosen'}.")


def _numbers(point: CurvePoint) -> tuple[str, str, str, str]:
    kept = number(point.preserved, 3)
    if isfinite(point.preserved):
        low, high = accuracy_interval(point.preserved, point.preserved_n)
        kept += f" ({number(low, 3)} to {number(high, 3)})"
    interval = f"{number(point.lower, 3)} to {number(point.upper, 3)}"
    return number(point.accuracy, 3), interval, number(point.log_p_chosen, 2), kept


def _setting(point: CurvePoint, unsteered: CurvePoint) -> str:
    if point is unsteered:
        return "the unsteered model"
    layers = point.config.layers
    where = "all layers" if layers is None else f"layer {', '.join(map(str, layers))}"
    return f"{where}, strength {point.config.strength:g}"
