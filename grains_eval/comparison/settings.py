"""What a user may choose for a comparison, and errors for choices that are invalid or do not fit the runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from grains_eval.comparison.leaderboards import LEADERBOARDS
from grains_eval.comparison.runs import Run, leaf_tasks
from grains_eval.errors import GrainsError, unknown

Groups = Literal["fixed", "sampled"]
# What the row of a group makes a statement about.
ESTIMANDS: Mapping[Groups, str] = {"fixed": "these subtasks", "sampled": "subtasks like these"}
SMALLEST_ALPHA = 1e-12


@dataclass(frozen=True)
class Analysis:
    """How two runs are compared item by item.

    Attributes:
        alpha: One minus the confidence level, and the level of "better" and "worse" after adjustment.
        tasks: Tasks or groups to restrict to; None for all.
        metrics: Metrics to restrict to, without filter; each has a row. None for all.
        clusters: Document field that names the cluster, by task or group; default: the task's `cluster_key`.
        higher_is_better: Direction by metric, for those that no task declares one for; without one there is no verdict.
        exclude: Document hashes to leave out, on top of those that built or tuned the runs' vectors.
        subtasks: Also give a row to each task of an aggregated group.
        all_metrics: Of several runs: give a row to every metric of a task, not to its headline metric alone.
        groups: What a group's row is about: "fixed", these subtasks; "sampled", subtasks like these, which makes them
            the clusters.
        prompts_may_differ: Accept other prompts for the same documents, of all runs or of those named; prompting
            artifacts are recognised without it.
        leaderboard: A leaderboard (`leaderboards.LEADERBOARDS`), whose benchmarks are the rows of its tasks; without
            `tasks` there are no others.
        seed: Seed of resampling tests.

    Raises:
        GrainsError: alpha is not above 0 and below 1, or `groups` or `leaderboard` is unknown.
    """

    alpha: float = 0.05
    tasks: Sequence[str] | None = None
    metrics: Sequence[str] | None = None
    clusters: Mapping[str, str] = field(default_factory=dict[str, str])
    higher_is_better: Mapping[str, bool] = field(default_factory=dict[str, bool])
    exclude: Collection[str] = ()
    subtasks: bool = False
    all_metrics: bool = False
    groups: Groups = "fixed"
    prompts_may_differ: bool | Collection[str] = False
    leaderboard: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        check_alpha(self.alpha)
        if self.groups not in ESTIMANDS:
            raise unknown(self.groups, ESTIMANDS, "kind of groups")
        if self.leaderboard is not None and self.leaderboard not in LEADERBOARDS:
            raise unknown(self.leaderboard, LEADERBOARDS, "leaderboard")

    def allows_other_prompts(self, *runs: Run) -> bool:
        """Whether one of these runs may prompt differently from the others."""
        if isinstance(self.prompts_may_differ, bool):
            return self.prompts_may_differ
        return any(run.name in self.prompts_may_differ for run in runs)


@dataclass(frozen=True)
class Question:
    """What is asked of several runs: what was to improve, what had to be kept, and beside which controls.

    Attributes:
        targets: Tasks or groups that were to improve; default: all that nothing declares preserved.
        preserve: Tasks or groups whose score must not fall; default: those that the runs' artifacts, else the tasks'
            metadata, declare.
        margin: Loss on preserved tasks that still counts as kept, as a share (0.01 is one point).
        headline_metrics: The metric that the headline names, by task; default: accuracy where there is one.
        controls: Names of control runs; default: those whose artifacts say that they are.
        beside: Method to the controls at its own setting; those of other methods alone are not its rivals.

    Raises:
        GrainsError: the margin is not above 0 and below 1.
    """

    targets: Sequence[str] | None = None
    preserve: Sequence[str] | None = None
    margin: float = 0.01
    headline_metrics: Mapping[str, str] = field(default_factory=dict[str, str])
    controls: Collection[str] | None = None
    beside: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]])

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        if not 0 < self.margin < 1:
            raise GrainsError(
                f"margin {self.margin:g} is not a tolerated loss; give a share above 0 and below 1, such as 0.01 for "
                "one point"
            )


def check_alpha(alpha: float) -> None:
    """Refuse an invalid level.

    Raises:
        GrainsError: it is not above 0 and below 1.
    """
    if not 0 < alpha < 1:
        raise GrainsError(f"alpha {alpha:g} is not a level of a test; give a share above 0 and below 1, such as 0.05")
    if alpha < SMALLEST_ALPHA:
        raise GrainsError(f"alpha {alpha:g} is too small to compute with; give {SMALLEST_ALPHA:g} or more")


def check_known(wanted: Iterable[str] | None, known: Iterable[str], what: str = "metric") -> None:
    """Refuse a metric (or something else) that no compared task has; without its filter (`acc`, not `acc,none`).

    Raises:
        GrainsError: an unknown one.
    """
    names = set(known)
    for name in wanted or ():
        if name not in names:
            raise unknown(name, names, what)


def check_evaluated(baseline: Run, names: Sequence[str] | None, what: str) -> None:
    """Refuse a task that was not evaluated.

    Args:
        baseline: The run that is to have it.
        names: Tasks or groups.
        what: What they were named as.

    Raises:
        GrainsError: neither a task nor a group of the baseline.
    """
    groups = (*baseline.results.get("groups", {}), *baseline.results.get("group_subtasks", {}))
    check_known(names, (*baseline.tasks, *groups), what)


def clusters_by_task(clusters: Mapping[str, str], baseline: Run, tasks: Sequence[str]) -> dict[str, str]:
    """Cluster fields by leaf task; a group's field holds for each of its tasks.

    Raises:
        GrainsError: neither a compared task nor a group of such.
    """
    fields: dict[str, str] = {}
    for name, field_name in clusters.items():
        leaves = leaf_tasks(baseline.results, name) or (name,)
        if not set(leaves) <= set(baseline.tasks):
            raise unknown(name, {*tasks, *baseline.results.get("groups", {})}, "task to cluster")
        fields |= dict.fromkeys(leaves, field_name)
    return fields
