"""Bring two runs together item by item, and refuse where that would compare unlike things."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from grains_eval.errors import GrainsError, unknown
from grains_eval.report.runs import Run, Sample

# Settings of a run that change every prompt: what, key in the results, command-line flag.
_PROMPT_SETTINGS = (
    ("chat templates", "chat_template_sha", "apply_chat_template"),
    ("system instructions", "system_instruction_sha", "system_instruction"),
    ("fewshot_as_multiturn", "fewshot_as_multiturn", "fewshot_as_multiturn"),
)


@dataclass(frozen=True)
class PairedTask:
    """The samples of one task and filter under both runs, same order.

    Attributes:
        task: lm-eval task.
        filter: Its filter.
        baseline: Samples of the baseline run.
        steered: The same documents under the other run.
        kept: Which of them are held out: they neither built nor tuned the vector.
    """

    task: str
    filter: str
    baseline: tuple[Sample, ...]
    steered: tuple[Sample, ...]
    kept: tuple[bool, ...]


def common_tasks(baseline: Run, other: Run, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Leaf tasks to compare.

    Args:
        baseline: First run.
        other: Second run.
        wanted: Tasks or groups to restrict to; None for all.

    Raises:
        GrainsError: the runs evaluated different tasks, or a wanted one is in neither.
    """
    first, second = baseline.tasks, other.tasks
    if wanted is not None:
        leaves = [leaf for name in wanted for leaf in (leaf_tasks(baseline, name) or (name,))]
        for name in leaves:
            if name not in first:
                raise unknown(name, {*first, *baseline.results.get("groups", {})}, "task")
            if name not in second:
                raise GrainsError(
                    f"task '{name}' is in run '{baseline.name}' but not in '{other.name}'; evaluate it there"
                )
        return tuple(dict.fromkeys(leaves))
    for run, mine, theirs in ((other, first, second), (baseline, second, first)):
        missing = [name for name in mine if name not in theirs]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise GrainsError(
                f"run '{run.name}' lacks task '{missing[0]}'{more} of the other run; "
                "evaluate the same tasks, or name the tasks to compare"
            )
    return first


def leaf_tasks(run: Run, group: str) -> tuple[str, ...]:
    """The leaf tasks under a group, through nested groups; empty when it is no group."""
    children = run.setting("group_subtasks", group)
    if not isinstance(children, list):
        return ()
    leaves: list[str] = []
    for child in children:
        leaves.extend(leaf_tasks(run, str(child)) or (str(child),))
    return tuple(dict.fromkeys(leaves))


def check(baseline: Run, other: Run, tasks: Sequence[str], *, prompts_may_differ: bool = False) -> list[str]:
    """Refuse runs that were asked differently; return what should only be known.

    Raises:
        GrainsError: another task version, few-shot count, chat template, system instruction or limit.
    """
    for task in tasks:
        _same(
            baseline,
            other,
            f"task '{task}': versions",
            "versions",
            task,
            advice="use one version of the task",
        )
        if not prompts_may_differ:
            _same(
                baseline,
                other,
                f"task '{task}': few-shot examples",
                "n-shot",
                task,
                advice="use the same --num_fewshot",
            )
    if not prompts_may_differ:
        for what, key, flag in _PROMPT_SETTINGS:
            # What one run did not record is left to the prompts' own hashes.
            if baseline.setting(key) is not None and other.setting(key) is not None:
                _same(baseline, other, what, key, advice=f"use the same --{flag}")
    for task in tasks:
        _same(
            baseline, other, f"task '{task}': numbers of documents", "n-samples", task, "effective",
            advice="use the same --limit",
        )  # fmt: skip
    return _warnings(baseline, other)


def _same(baseline: Run, other: Run, what: str, *path: str, advice: str) -> None:
    first, second = baseline.setting(*path), other.setting(*path)
    if first != second:
        raise GrainsError(
            f"{what} differ: {_short(first)} in '{baseline.name}', {_short(second)} in '{other.name}'; {advice}"
        )


def _suspects(baseline: Run, other: Run) -> str:
    """Settings that differ and may explain different prompts."""
    found = [what for what, key, _ in _PROMPT_SETTINGS if baseline.setting(key) != other.setting(key)]
    return f" ({' and '.join(found)} differ)" if found else ""


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else text[:12] + "…"


def _warnings(baseline: Run, other: Run) -> list[str]:
    found: list[str] = []
    first, second = (str(run.setting("config", "scoring_path") or "plain") for run in (baseline, other))
    if first != second:
        found.append(
            f"'{baseline.name}' was scored on the {first} path and '{other.name}' on the {second} path: "
            "equal inputs may differ in the last digits; use share_context=false for both, or for neither"
        )
    for label, path in (
        ("lm_eval versions", ("lm_eval_version",)),
        ("transformers versions", ("transformers_version",)),
        ("number formats", ("config", "model_dtype")),
        ("generation settings", ("config", "gen_kwargs")),
        ("models", ("model_name",)),
    ):
        first, second = baseline.setting(*path), other.setting(*path)
        if first is not None and second is not None and first != second:
            found.append(f"{label} differ: {first} in '{baseline.name}', {second} in '{other.name}'")
    return found


def pair(
    baseline: Run, other: Run, task: str, exclude: Collection[str] = (), *, prompts_may_differ: bool = False
) -> list[PairedTask]:
    """Join the samples of one task by document, one result per filter.

    Args:
        baseline: First run.
        other: Second run.
        task: Leaf task.
        exclude: Document hashes to leave out.
        prompts_may_differ: The other run is a prompting method: only documents and targets must agree.

    Raises:
        GrainsError: documents, prompts, targets or filters differ, or no document is left.
    """
    first, second = baseline.samples(task), other.samples(task)
    if set(first) != set(second):
        raise GrainsError(
            f"task '{task}': filters differ: {', '.join(sorted(first))} in '{baseline.name}', "
            f"{', '.join(sorted(second))} in '{other.name}'; use one version of the task"
        )
    return [
        _join(baseline, other, task, name, first[name], second[name], frozenset(exclude), prompts_may_differ)
        for name in first
    ]


def _join(
    baseline: Run,
    other: Run,
    task: str,
    name: str,
    first: Sequence[Sample],
    second: Sequence[Sample],
    exclude: frozenset[str],
    prompts_may_differ: bool,
) -> PairedTask:
    if len(first) != len(second):
        raise GrainsError(
            f"task '{task}': {len(first)} samples in '{baseline.name}' but {len(second)} in '{other.name}'; "
            "use the same --limit"
        )
    by_hash = not (
        any(sample.has_picture for sample in first)
        and not {sample.doc_hash for sample in first} & {sample.doc_hash for sample in second}
    )
    left, right = _keyed(first, by_hash, prompts_may_differ), _keyed(second, by_hash, prompts_may_differ)
    missing = [key for key in left if key not in right]
    if missing:
        raise GrainsError(
            f"task '{task}': {len(missing)} of {len(left)} documents of '{baseline.name}' are not in "
            f"'{other.name}'; evaluate the same documents"
        )
    field = baseline.setting("configs", task, "doc_to_decontamination_query")
    kept = tuple(exclude.isdisjoint({s.content_hash, s.query_hash(field)}) for s in left.values())
    if not any(kept):
        raise GrainsError(
            f"task '{task}': all {len(left)} documents built or tuned the vector; evaluate documents that did not"
        )
    for key in left:
        if left[key].target_hash != right[key].target_hash:
            raise GrainsError(
                f"task '{task}', document {left[key].doc_id}: targets differ between '{baseline.name}' and "
                f"'{other.name}'; use one version of the task"
            )
        if not prompts_may_differ and left[key].prompt_hash != right[key].prompt_hash:
            raise GrainsError(
                f"task '{task}', document {left[key].doc_id}: prompts differ between '{baseline.name}' and "
                f"'{other.name}'{_suspects(baseline, other)}; use the same prompt, few-shot and "
                "chat-template settings"
            )
    return PairedTask(
        task=task,
        filter=name,
        baseline=tuple(left.values()),
        steered=tuple(right[key] for key in left),
        kept=kept,
    )


def _keyed(samples: Sequence[Sample], by_hash: bool, prompts_may_differ: bool) -> dict[Hashable, Sample]:
    """Samples by document hash and occurrence; by number, target and prompt where pictures spoil the hash."""
    keyed: dict[Hashable, Sample] = {}
    seen: dict[str, int] = {}
    for sample in samples:
        if by_hash:
            seen[sample.doc_hash] = seen.get(sample.doc_hash, 0) + 1
            key: Hashable = (sample.doc_hash, seen[sample.doc_hash])
        else:
            key = (sample.doc_id, sample.target_hash, "" if prompts_may_differ else sample.prompt_hash)
        keyed[key] = sample
    return keyed
