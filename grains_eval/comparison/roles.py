"""What each run and row of a report is there for: methods and controls, targets and preserved skills."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from grains_eval.comparison.checks import check_known
from grains_eval.comparison.rows import Row, adjust
from grains_eval.comparison.runs import Run, leaf_tasks
from grains_eval.comparison.verdict import answer, gain
from grains_eval.errors import GrainsError, unknown

# The metric that speaks for a task when nobody says: the first of these that it has, else its first.
HEADLINE_METRICS = ("acc", "exact_match", "bleu_acc", "f1", "mcc", "bleu", "word_perplexity")
# What a task's metadata may say of it.
_DECLARABLE = ("target", "preserve")


@dataclass(frozen=True)
class Roles:
    """What each compared task is there for.

    Attributes:
        targets: Tasks that were to improve, and those of which nobody said anything.
        preserved: Tasks whose score must not fall.
        missing: What artifacts declare preserved and nobody evaluated.
        notes: Tasks with two declarations, or with neither role.
    """

    targets: frozenset[str]
    preserved: frozenset[str]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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


def task_roles(
    runs: Sequence[Run], tasks: Sequence[str], targets: Sequence[str] | None, preserve: Sequence[str] | None
) -> Roles:
    """Who is a target and who is preserved: as the user says, else as the runs' artifacts, else as the tasks' metadata.

    A task of which nobody says anything is a target, unless the user named the targets.

    Args:
        runs: All runs, the baseline first.
        tasks: Tasks and groups that have rows.
        targets: Tasks or groups that were to improve; None leaves it to the declarations.
        preserve: Tasks or groups whose score must not fall; None leaves it to the declarations.

    Raises:
        GrainsError: a task is named as both, or its metadata name another role.
    """
    recipes = {role: {name for run in runs for name in run.declared(role)} for role in ("tasks", "preserve")}
    wanted: set[str] = set()
    kept: set[str] = set()
    notes: list[str] = []
    for task in tasks:

        def named(names: Collection[str] | None, task: str = task) -> bool:
            return names is not None and _covers(runs[0], names, task)

        if named(targets) and named(preserve):
            raise GrainsError(f"task '{task}' is named both as a target and as preserved; name it as one of them")
        by_recipe = [role for role in ("tasks", "preserve") if named(recipes[role])]
        declared = "preserve" if by_recipe == ["preserve"] else "target" if by_recipe else _metadata_role(runs[0], task)
        if named(preserve) or (preserve is None and declared == "preserve" and not named(targets)):
            kept.add(task)
        elif named(targets) or targets is None:
            wanted.add(task)
            if len(by_recipe) > 1 and targets is None:
                notes.append(
                    f"{task} is a target of one run's recipe and preserved by another's, and counts as a target; "
                    "say what it is with --targets or --preserve"
                )
        else:
            notes.append(f"{task} is named neither as a target nor as preserved: it stands in the table alone")
    missing = () if preserve is not None or kept else tuple(sorted(recipes["preserve"] - recipes["tasks"]))
    return Roles(frozenset(wanted), frozenset(kept), missing, tuple(notes))


def _covers(run: Run, names: Collection[str], task: str) -> bool:
    """Whether a task or group is one of the named, lies in one of them, or holds nothing but their tasks."""
    leaves = {leaf for name in names for leaf in (leaf_tasks(run.results, name) or (name,))}
    mine = leaf_tasks(run.results, task) or (task,)
    return task in names or set(mine) <= leaves


def _metadata_role(run: Run, task: str) -> str | None:
    """The role that a task's YAML declares (`metadata.role`); of a group, the one that all its tasks declare."""
    found: set[str | None] = set()
    for leaf in leaf_tasks(run.results, task) or (task,):
        role = run.setting("configs", leaf, "metadata", "role")
        if role is not None and role not in _DECLARABLE:
            raise unknown(role, _DECLARABLE, f"role in the metadata of task '{leaf}'")
        found.add(role)
    return found.pop() if len(found) == 1 else None


def check_named(baseline: Run, names: Sequence[str] | None, what: str) -> None:
    """Refuse a task that was not evaluated.

    Args:
        baseline: The run that is to have it.
        names: Tasks or groups.
        what: What they were named as.

    Raises:
        GrainsError: neither a task nor a group of the baseline.
    """
    known = {*baseline.tasks, *baseline.results.get("groups", {}), *baseline.results.get("group_subtasks", {})}
    for name in names or ():
        if name not in known:
            raise unknown(name, known, what)


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


def headline_rows(rows: Sequence[Row], wanted: Mapping[str, str]) -> list[Row]:
    """One row per method and task: the metric that speaks for the task."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.comparison.method, row.comparison.task), []).append(row)
    chosen: list[Row] = []
    for (_, task), candidates in grouped.items():
        named = {row.comparison.metric: row for row in reversed(candidates)}
        bare = {row.comparison.metric.partition(",")[0]: row for row in reversed(candidates)}
        if task in wanted and wanted[task] not in named and wanted[task] not in bare:
            raise GrainsError(
                f"task '{task}' has no metric '{wanted[task]}' to compare; it has {', '.join(sorted(named))}"
            )
        order = (wanted[task],) if task in wanted else HEADLINE_METRICS
        found = next((named.get(m) or bare[m] for m in order if m in named or m in bare), candidates[0])
        chosen.append(found)
    return chosen


def against_controls(
    chosen: Sequence[Row],
    runs: Sequence[Run],
    controlled: set[str],
    targets: Collection[str],
    alpha: float,
    rows_of: Callable[[Run, Run, Sequence[str] | None, Sequence[str] | None], list[Row]],
    beside: Mapping[str, Collection[str]],
) -> tuple[AgainstControl, ...]:
    """Each method that is better than the baseline, compared with the control that gained most.

    Where controls stand beside methods (`beside`), those at a method's own setting count, and those that stand beside
    none. Vectors with the vocabulary direction projected out are left aside: a tie with them speaks for the method.
    """
    by_name = {run.name: run for run in runs}
    placed = {name for names in beside.values() for name in names}
    found: list[tuple[str, str, Row]] = []
    for row in chosen:
        mine = row.comparison
        if mine.method in controlled or mine.task not in targets or answer(mine, alpha) != "better":
            continue
        rivals = [
            other.comparison
            for other in chosen
            if other.comparison.method in controlled
            and other.comparison.method not in placed.difference(beside.get(mine.method, placed))
            and "projection" not in by_name[other.comparison.method].kinds
            and (other.comparison.task, other.comparison.metric) == (mine.task, mine.metric)
        ]
        if not rivals:
            continue
        rival = max(rivals, key=gain).method
        metric = mine.metric.partition(",")[0]
        paired = [
            candidate
            for candidate in rows_of(by_name[rival], by_name[mine.method], (mine.task,), (metric,))
            if (candidate.comparison.task, candidate.comparison.metric) == (mine.task, mine.metric)
        ]
        found.extend((mine.method, rival, candidate) for candidate in paired)
    adjusted = adjust([row for _, _, row in found], alpha=alpha)
    return tuple(AgainstControl(method, rival, row) for (method, rival, _), row in zip(found, adjusted, strict=True))


def draw_ranges(bands: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> tuple[Band, ...]:
    """The range of each control that has several draws."""
    made: list[Band] = []
    for label, members in bands.items():
        draws: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            if row.comparison.method in members:
                key = (row.comparison.task, row.comparison.metric)
                draws.setdefault(key, []).append(row.comparison.difference)
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
