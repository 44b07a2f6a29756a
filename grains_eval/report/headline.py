"""The verdict in two or three sentences: what improved, whether a control does as well, what was lost elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from grains_eval.comparison.controls import AgainstControl
from grains_eval.comparison.noninferiority import CapabilityVerdict
from grains_eval.comparison.verdict import answer, gain
from grains_eval.report.formatting import (
    MANY,
    change,
    confidence,
    counted,
    error_rates,
    interval,
    level,
    no_verdict,
    p_phrase,
    rounded,
    too_few,
    unit,
)
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
    """What improved, whether a control does as well, and what was lost elsewhere.

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
    """Methods that are not better than a control, so that their vectors do not explain their gain."""
    found: dict[tuple[str, str], list[str]] = {}
    for rival in rivals:
        row = rival.row.comparison
        if reason := no_verdict(row):
            who = f"whether {rival.method} is better than its strongest control, {rival.control}, cannot be told"
            found.setdefault((row.task, row.metric), []).append(f"{who}: {reason}")
        elif answer(row, alpha) != "better":
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
    return f"{'N' + text[1:] if text.startswith(('none of', 'no verdict')) else text}."


def _single(row: Comparison, alpha: float) -> str:
    name = f"{row.task} {row.metric}"
    size = f"{change(row.difference, row.scale)} {unit(row.scale)}"
    if reason := no_verdict(row):
        return f"no verdict on {name}, {size}: {reason}"
    items = _items(row)
    approximate = ", approximate" if row.assumption and not row.guaranteed else ""
    numbers = (
        f"{size} ({confidence(alpha)} interval {interval(row.interval, row.scale)}, "
        f"adjusted {p_phrase(row.adjusted_p)}, {items}{approximate})"
    )
    found = answer(row, alpha)
    if found == "not shown":
        detectable = row.minimum_detectable_effect
        ending = ""
        if math.isfinite(detectable) and detectable > 0:
            ending = f"; a change of {level(detectable, row.scale)} would have been found with 80 % power"
        return f"no change of {name} is shown, {numbers}{ending}"
    verb = {"better": "improves", "worse": "worsens", "changed": "changes"}[found]
    return (
        f"{verb} {name} from {level(row.baseline, row.scale)} to "
        f"{level(row.steered, row.scale)}, {numbers}{UNDECLARED if found == 'changed' else ''}"
    )


def _several(rows: Sequence[Comparison], alpha: float) -> str:
    name = f"{rows[0].task} {rows[0].metric}"
    methods = len(rows)
    few = [row for row in rows if no_verdict(row)]
    rows = [row for row in rows if not no_verdict(row)]
    ending = ""
    if few:
        most = max(few, key=lambda row: row.units_needed or 0)
        whom = ", ".join(row.method for row in few) if rows else f"any of {methods} methods"
        ending = f"no verdict on {name} for {whom}: {no_verdict(most)}"
        if not rows:
            return ending
        ending = f"; {ending}"
    whole = f"{name} ({_items(rows[0])})"
    if rows[0].higher_is_better is None:
        moved = [row for row in rows if answer(row, alpha) == "changed"]
        listed = f": {_listed(moved)}" if moved else ""
        return f"{whole} is shown to change under {len(moved)} of {methods} methods{listed}{UNDECLARED}{ending}"
    better = sorted((r for r in rows if answer(r, alpha) == "better"), key=_gain, reverse=True)
    worse = sorted((r for r in rows if answer(r, alpha) == "worse"), key=_gain)
    best = max(rows, key=_gain)
    if not better:
        text = (
            f"none of {methods} methods is shown to improve {whole}: the largest change is {best.method}'s "
            f"{_short(best)}"
        )
    else:
        text = f"{whole} is improved by {len(better)} of {methods} methods: {_listed(better)}"
    if worse:
        text += f"; worsened by {_listed(worse)}"
    return text + ending


def _items(row: Comparison) -> str:
    items = counted(row.n, row.clusters)
    return items.replace(" items", " held-out items", 1) if row.excluded else items


def _gain(row: Comparison) -> float:
    return gain(row.difference, row.higher_is_better)


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
        clauses = "; ".join([*(f"{v.task} {v.metric} {capability(v)}" for v in verdicts), *_rates(verdicts)])
        return f"{''.join(f'{claim}: ' for claim in all_kept(verdicts))}{clauses}."
    apart = [v for v in verdicts if not v.together]
    tasks = list(dict.fromkeys((v.task, v.metric) for v in apart))
    by_task = [_by_answer([v for v in apart if (v.task, v.metric) == task]) for task in tasks]
    return "; ".join([*all_kept(verdicts), *by_task, *_rates(verdicts)]) + "."


def all_kept(verdicts: Sequence[CapabilityVerdict]) -> list[str]:
    """That methods keep every preserved task, which is one claim for each of them; nothing where none does."""
    found: dict[int, list[str]] = {}
    for tasks, method in dict.fromkeys((v.tasks, v.method) for v in verdicts if v.together):
        found.setdefault(tasks, []).append(method)
    return [
        f"{', '.join(names)}: {'both' if tasks == 2 else f'all {tasks}'} preserved tasks are kept, as one claim"
        f"{' each' if len(names) > 1 else ''}"
        for tasks, names in found.items()
    ]


def _rates(verdicts: Sequence[CapabilityVerdict]) -> list[str]:
    """What the error rates of verdicts rest on, each stated once, with its tasks where they differ."""
    found: dict[str, list[str]] = {}
    for verdict in verdicts:
        said = error_rates(verdict.guaranteed, verdict.assumption) if verdict.units_needed is None else ""
        name = f"{verdict.task} {verdict.metric}"
        if said and name not in found.setdefault(said, []):
            found[said].append(name)
    return [said + (f" ({', '.join(names)})" if len(found) > 1 else "") for said, names in found.items()]


def _by_answer(verdicts: Sequence[CapabilityVerdict]) -> str:
    first = verdicts[0]
    parts: list[str] = []
    labels: dict[str, Callable[[CapabilityVerdict], str]] = {
        "kept": lambda v: v.method,
        "lost": lambda v: f"{v.method} ({change(v.gain, v.scale)})",
        "cannot tell": lambda v: f"{v.method} ({would_tell(v)})",
    }
    for found, text in labels.items():
        names = [text(v) for v in verdicts if v.answer == found and v.units_needed is None]
        if names:
            lead = {"kept": "kept by", "lost": "lost by", "cannot tell": "cannot tell for"}[found]
            parts.append(f"{lead} {', '.join(names)}")
    if few := [v for v in verdicts if v.units_needed is not None]:
        most = max(few, key=lambda v: v.units_needed or 0)
        parts.append(f"no verdict for {', '.join(v.method for v in few)} ({would_tell(most)})")
    margin = f"{level(first.margin, first.scale)} {unit(first.scale)}"
    items = counted(first.n, first.clusters)
    return f"{first.task} {first.metric} ({items}, margin {margin}): {', '.join(parts)}"


def capability(verdict: CapabilityVerdict) -> str:
    """One verdict as a clause, without what its error rates rest on."""
    margin = f"margin {level(verdict.margin, verdict.scale)} {unit(verdict.scale)}"
    if verdict.units_needed is not None:
        return f"has no verdict, {change(verdict.gain, verdict.scale)}, {margin}: {would_tell(verdict)}"
    numbers = f"{change(verdict.gain, verdict.scale)} ({interval(verdict.interval, verdict.scale)}), {margin}"
    told = numbers
    numbers += f", {counted(verdict.n, verdict.clusters)}"
    if verdict.answer == "kept":
        loss = "; a smaller loss is shown" if verdict.interval[1] < 0 else ""
        return f"is kept, {numbers}{loss}"
    if verdict.answer == "lost":
        size = "" if verdict.interval[1] < -verdict.margin else "; whether it lost more than that cannot be told"
        return f"is lost, {numbers}{size}"
    return f"cannot be told with {counted(verdict.n, verdict.clusters)}, {told}; {would_tell(verdict)}"


def would_tell(verdict: CapabilityVerdict) -> str:
    """How many items, or clusters, would tell whether a skill was kept."""
    if verdict.units_needed is not None:
        return too_few(verdict.n, verdict.clusters, verdict.units_needed)
    needed = verdict.clusters_needed or verdict.items_needed
    unit_name = "clusters" if verdict.clusters_needed else "items"
    if needed is None:
        return f"no feasible number of {'items' if verdict.clusters is None else 'clusters'} would"
    return f"{'about ' if needed <= MANY else ''}{rounded(needed)} {unit_name} would"
