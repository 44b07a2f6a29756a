"""What each compared task is there for: to improve, or to be preserved."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from grains_eval.comparison.runs import Run, leaf_tasks
from grains_eval.comparison.settings import Question
from grains_eval.errors import GrainsError, unknown

# What a task's metadata may say of it.
_DECLARABLE = ("target", "preserve")


@dataclass(frozen=True)
class TaskRoles:
    """What each compared task is there for.

    Attributes:
        targets: Tasks that were to improve, and those without any declaration.
        preserved: Tasks whose score must not fall.
        missing: Tasks that artifacts declare preserved and that were not evaluated.
        notes: Tasks with two declarations, or with neither role.
    """

    targets: frozenset[str]
    preserved: frozenset[str]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def task_roles(runs: Sequence[Run], tasks: Sequence[str], question: Question) -> TaskRoles:
    """Which tasks are targets and which are preserved: as the user, else the artifacts, else the tasks declare.

    A task without any declaration is a target, unless the user named the targets.

    Args:
        runs: All runs, the baseline first.
        tasks: Tasks and groups that have rows.
        question: Targets and preserved tasks that the user named.

    Raises:
        GrainsError: a task is named as both, or its metadata name another role.
    """
    recipes = {role: {name for run in runs for name in run.declared(role)} for role in ("tasks", "preserve")}
    targets: set[str] = set()
    preserved: set[str] = set()
    notes: list[str] = []
    for task in tasks:
        is_target, is_preserved = (
            names is not None and _covers(runs[0], names, task) for names in (question.targets, question.preserve)
        )
        if is_target and is_preserved:
            raise GrainsError(f"task '{task}' is named both as a target and as preserved; name it as one of them")
        by_recipe = [role for role, names in recipes.items() if _covers(runs[0], names, task)]
        declared = "preserve" if by_recipe == ["preserve"] else "target" if by_recipe else _metadata_role(runs[0], task)
        if is_preserved or (question.preserve is None and declared == "preserve" and not is_target):
            preserved.add(task)
        elif is_target or question.targets is None:
            targets.add(task)
            if len(by_recipe) > 1 and question.targets is None:
                notes.append(
                    f"{task} is a target of one run's recipe and preserved by another's, and counts as a target; "
                    "say what it is with --targets or --preserve"
                )
        else:
            notes.append(f"{task} is named neither as a target nor as preserved: it stands in the table alone")
    evaluated = question.preserve is not None or preserved
    missing = () if evaluated else tuple(sorted(recipes["preserve"] - recipes["tasks"]))
    return TaskRoles(frozenset(targets), frozenset(preserved), missing, tuple(notes))


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
