"""What may be asked of a comparison: levels, metrics and clusters, refused by name where they do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from grains_eval.comparison.runs import Run, leaf_tasks
from grains_eval.errors import GrainsError, unknown

SMALLEST_ALPHA = 1e-12


def check_levels(alpha: float, margin: float | None = None) -> None:
    """Refuse a level or a margin that makes no statement.

    Raises:
        GrainsError: alpha or margin is not above 0 and below 1.
    """
    if not 0 < alpha < 1:
        raise GrainsError(f"alpha {alpha:g} is no level of a test; give a share above 0 and below 1, such as 0.05")
    if alpha < SMALLEST_ALPHA:
        raise GrainsError(f"alpha {alpha:g} is too small to compute with; give {SMALLEST_ALPHA:g} or more")
    if margin is not None and not 0 < margin < 1:
        raise GrainsError(
            f"margin {margin:g} is no tolerated loss; give a share above 0 and below 1, such as 0.01 for one point"
        )


def check_known(wanted: Sequence[str] | None, known: Iterable[str], what: str = "metric") -> None:
    """Refuse a metric (or something else) that no compared task has; without its filter (`acc`, not `acc,none`).

    Raises:
        GrainsError: an unknown one.
    """
    names = set(known)
    for name in wanted or ():
        if name not in names:
            raise unknown(name, names, what)


def clusters_by_task(clusters: Mapping[str, str], baseline: Run, tasks: Sequence[str]) -> dict[str, str]:
    """Cluster fields by leaf task; a group's field holds for each of its tasks.

    Raises:
        GrainsError: neither a compared task nor a group of such.
    """
    fields: dict[str, str] = {}
    for name, field in clusters.items():
        leaves = leaf_tasks(baseline.results, name) or (name,)
        if not set(leaves) <= set(baseline.tasks):
            raise unknown(name, {*tasks, *baseline.results.get("groups", {})}, "task to cluster")
        fields |= dict.fromkeys(leaves, field)
    return fields
