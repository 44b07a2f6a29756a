"""The verdict in two or three sentences: what improved for sure, whether a control does as well, what it cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from grains_eval.report.data import AgainstControl
from grains_eval.report.verdict import CapabilityVerdict
from grains_eval.report.wording import MANY, answer, change, confidence, gain, interval, level, p_phrase, rounded, unit
from grains_eval.types import Comparison

NO_PRESERVATION = "Nothing was declared preserved, so what this cost elsewhere is unknown."

UNDECLARED = "; whether that is better is not declared"


def headline(
    targets: Sequence[Comparison],
    verdicts: Sequence[CapabilityVerdict],
    alpha: float,
    rivals: Sequence[AgainstControl] = (),
    missing: Sequence[str] = (),
) -> str:
    """What improved, that a control does as well where it does, and what it cost.

    Args:
        targets: Rows of the tasks that were to improve, without controls.
        verdicts: Verdicts on preservation tasks, without controls.
        alpha: Level of the tests and one minus the confidence level.
        rivals: Methods that improved, against their strongest control.
        missing: Tasks that were declared preserved and not evaluated.
    """
    cost = _cost(verdicts)
    if not verdicts and missing:
        cost = f"What is to be preserved, {_shortened(missing)}, was not evaluated, so what this cost is unknown."
    return " ".join(filter(None, (_effect(targets, alpha), _beyond(rivals, alpha), cost)))


def _beyond(rivals: Sequence[AgainstControl], alpha: float) -> str:
    """The methods whose gain a control has too: their vectors are then no explanation of it."""
    found: dict[tuple[str, str], list[str]] = {}
    for rival in rivals:
        row = rival.row.comparison
        if answer(row, alpha) != "better":
            who = f"{rival.method} is not shown to be better than its strongest control, {rival.control}"
            if answer(row, alpha) == "worse":
                who = f"{rival.method} is worse than its strongest control, {rival.control}"
            numbers = f"{change(row.difference, row.scale)} ({interval(row.interval, row.scale)}, "
            numbers += f"adjusted {p_phrase(row.adjusted_p)})"
            found.setdefault((row.task, row.metric), []).append(f"{who}: {numbers}")
    parts = [f"on {task} {metric} {_shortened(ties)}" for (task, metric), ties in found.items()]
    return f"But {'; '.join(parts)}." if parts else ""


def _effect(targets: Sequence[Comparison], alpha: float) -> str:
    if not targets:
        return "No method was compared on a target task."
    methods = list(dict.fromkeys(row.method for row in targets))
    tasks = list(dict.fromkeys((row.task, row.metric) for row in targets))
    if len(methods) == 1:
        return f"{methods[0]}: {'; '.join(_single(row, alpha) for row in targets)}."
    text = "; ".join(_several([r for r in targets if (r.task, r.metric) == t], alpha) for t in tasks)
    # A sentence may start with a task's name, which keeps its spelling.
    return f"{'N' + text[1:] if text.startswith('none of') else text}."


def _single(row: Comparison, alpha: float) -> str:
    items = f"{row.n:,} held-out items" if row.excluded else f"{row.n:,} items"
    numbers = (
        f"{change(row.difference, row.scale)} {unit(row.scale)} ({confidence(alpha)} interval "
        f"{interval(row.interval, row.scale)}, adjusted {p_phrase(row.adjusted_p)}, {items})"
    )
    found = answer(row, alpha)
    if found == "not shown":
        detectable = row.minimum_detectable_effect
        ending = ""
        if math.isfinite(detectable) and detectable > 0:
            ending = f"; a change of {level(detectable, row.scale)} would have been found with 80 % power"
        return f"no change of {row.task} {row.metric} is shown, {numbers}{ending}"
    verb = {"better": "improves", "worse": "worsens", "changed": "changes"}[found]
    return (
        f"{verb} {row.task} {row.metric} from {level(row.baseline, row.scale)} to "
        f"{level(row.steered, row.scale)}, {numbers}{UNDECLARED if found == 'changed' else ''}"
    )


def _several(rows: Sequence[Comparison], alpha: float) -> str:
    name = f"{rows[0].task} {rows[0].metric}"
    if rows[0].higher_is_better is None:
        moved = [row for row in rows if answer(row, alpha) == "changed"]
        listed = f": {_listed(moved)}" if moved else ""
        return f"{name} is shown to change under {len(moved)} of {len(rows)} methods{listed}{UNDECLARED}"
    better = sorted((r for r in rows if answer(r, alpha) == "better"), key=gain, reverse=True)
    worse = sorted((r for r in rows if answer(r, alpha) == "worse"), key=gain)
    best = max(rows, key=gain)
    if not better:
        text = (
            f"none of {len(rows)} methods is shown to improve {name}: the largest change is {best.method}'s "
            f"{_short(best)}"
        )
    else:
        text = f"{name} is improved by {len(better)} of {len(rows)} methods: {_listed(better)}"
    if worse:
        text += f"; worsened by {_listed(worse)}"
    return text


def _short(row: Comparison) -> str:
    return f"{change(row.difference, row.scale)} ({interval(row.interval, row.scale)})"


def _listed(rows: Sequence[Comparison]) -> str:
    return _shortened([f"{row.method} {_short(row)}" for row in rows])


def _shortened(texts: Sequence[str]) -> str:
    return ", ".join([*texts[:3], *([f"{len(texts) - 3} more"] if len(texts) > 3 else [])])


def _cost(verdicts: Sequence[CapabilityVerdict]) -> str:
    if not verdicts:
        return NO_PRESERVATION
    methods = list(dict.fromkeys(verdict.method for verdict in verdicts))
    if len(methods) == 1:
        return "; ".join(f"{v.task} {v.metric} {capability(v)}" for v in verdicts) + "."
    tasks = list(dict.fromkeys((v.task, v.metric) for v in verdicts))
    return "; ".join(_by_answer([v for v in verdicts if (v.task, v.metric) == t]) for t in tasks) + "."


def _by_answer(verdicts: Sequence[CapabilityVerdict]) -> str:
    first = verdicts[0]
    parts: list[str] = []
    labels: dict[str, Callable[[CapabilityVerdict], str]] = {
        "kept": lambda v: v.method,
        "lost": lambda v: f"{v.method} ({change(v.gain, v.scale)})",
        "cannot tell": lambda v: f"{v.method} ({_needed(v)})",
    }
    for found, text in labels.items():
        names = [text(v) for v in verdicts if v.answer == found]
        if names:
            lead = {"kept": "kept by", "lost": "lost by", "cannot tell": "cannot tell for"}[found]
            parts.append(f"{lead} {', '.join(names)}")
    margin = f"{level(first.margin, first.scale)} {unit(first.scale)}"
    return f"{first.task} {first.metric} (margin {margin}): {', '.join(parts)}"


def capability(verdict: CapabilityVerdict) -> str:
    """One verdict as a clause."""
    numbers = (
        f"{change(verdict.gain, verdict.scale)} ({interval(verdict.interval, verdict.scale)}), "
        f"margin {level(verdict.margin, verdict.scale)} {unit(verdict.scale)}"
    )
    if verdict.answer == "kept":
        loss = "; a smaller loss is shown" if verdict.interval[1] < 0 else ""
        return f"is kept, {numbers}{loss}"
    if verdict.answer == "lost":
        size = "" if verdict.interval[1] < -verdict.margin else "; whether it lost more than that cannot be told"
        return f"is lost, {numbers}{size}"
    return f"cannot be told at n = {verdict.n:,}, {numbers}; {_needed(verdict)}"


def _needed(verdict: CapabilityVerdict) -> str:
    if verdict.items_needed is None:
        return "no feasible number of items would tell"
    about = "about " if verdict.items_needed <= MANY else ""
    return f"{about}{rounded(verdict.items_needed)} items would"
