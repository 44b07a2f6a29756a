"""Pair the samples of two runs, and refuse runs that were not asked and scored alike."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from grains_eval.comparison import held_out
from grains_eval.comparison.conditions import SCORING, model_arguments, model_differences, task_differences
from grains_eval.comparison.runs import Run, Sample, leaf_tasks
from grains_eval.errors import GrainsError, unknown

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
        notes: What a reader must know of items that are not held out, or may not be.
    """

    task: str
    filter: str
    baseline: tuple[Sample, ...]
    steered: tuple[Sample, ...]
    kept: tuple[bool, ...]
    notes: tuple[str, ...] = ()


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
        leaves = [leaf for name in wanted for leaf in (leaf_tasks(baseline.results, name) or (name,))]
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
                "evaluate the same tasks, or name those to compare with --tasks"
            )
    return first


def check(baseline: Run, other: Run, tasks: Sequence[str], *, prompts_may_differ: bool = False) -> list[str]:
    """Refuse runs that were asked or scored differently; return notes on other differences.

    A prompting run may differ from the other in its instruction, and in a system instruction, which is noted.

    Args:
        baseline: First run.
        other: Second run.
        tasks: Leaf tasks to compare.
        prompts_may_differ: The user says that prompts differ by design: shots and templates are noted, not refused.

    Raises:
        GrainsError: another task version, few-shot count, chat template, system instruction or limit; other settings of
            generation or scoring; or one model that reads its input differently.
    """
    notes = [
        *_check_settings(baseline, other, tasks, prompts_may_differ),
        *_check_conditions(baseline, other, tasks, prompts_may_differ),
    ]
    for run in (baseline, other):
        if not model_arguments(run.results):
            notes.append(f"'{run.name}' does not record its model arguments, so that they could not be compared")
    notes += [note for run in (baseline, other) for note in held_out.unknown_origins(run)]
    return [*_scoring_paths(baseline, other), *_once(notes, tasks)]


def _check_settings(baseline: Run, other: Run, tasks: Sequence[str], prompts_may_differ: bool) -> list[str]:
    """Task versions, few-shot examples, prompt settings and sizes: refused, or noted where they may differ."""
    notes: list[str] = []
    instructed = baseline.instructed or other.instructed
    for task in tasks:
        _same(baseline, other, f"task '{task}': versions", "versions", task, advice="use one version of the task")
        if not prompts_may_differ:
            _same(
                baseline,
                other,
                f"task '{task}': few-shot examples",
                "n-shot",
                task,
                advice="use the same --num_fewshot",
            )
        elif baseline.setting("n-shot", task) != other.setting("n-shot", task):
            notes.append(_differ(baseline, other, f"task '{task}': few-shot examples", "n-shot", task))
    for what, key, flag in _PROMPT_SETTINGS:
        first, second = baseline.setting(key), other.setting(key)
        # where a run did not record a setting, the hashes of the prompts decide, if they are compared
        unknown_to_one = first is None or second is None
        if first == second or (unknown_to_one and not (instructed or prompts_may_differ)):
            continue
        if prompts_may_differ or (instructed and key != "chat_template_sha"):
            notes.append(_differ(baseline, other, what, key))
        else:
            _same(baseline, other, what, key, advice=f"use the same --{flag}")
    for task in tasks:
        _same(
            baseline, other, f"task '{task}': numbers of documents", "n-samples", task, "effective",
            advice="use the same --limit",
        )  # fmt: skip
    return notes


def _check_conditions(baseline: Run, other: Run, tasks: Sequence[str], prompts_may_differ: bool) -> list[str]:
    """Everything else that the results record: refused where numbers become incomparable, else noted."""
    same_prompts = not (baseline.instructed or other.instructed or prompts_may_differ)
    found = model_differences(baseline.results, other.results)
    for task in tasks:
        found += task_differences(baseline.results, other.results, task, same_prompts=same_prompts)
    notes: list[str] = []
    for difference in found:
        said = difference.says(baseline.name, other.name)
        if difference.refused and not (prompts_may_differ and difference.name not in SCORING):
            advice = "use one version of the task" if difference.task else f"use the same {difference.name} for both"
            raise GrainsError(f"{said}; {advice}")
        notes.append(said)
    return notes


def _once(notes: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """Notes, with those that are the same for many tasks given once, for the first of them."""
    found: dict[str, list[str]] = {}
    for note in notes:
        name = next((task for task in tasks if note.startswith(f"task '{task}': ")), "")
        found.setdefault(note.removeprefix(f"task '{name}': ") if name else note, []).append(name)
    return [
        said if not names[0] else f"task '{names[0]}'{f' and {len(names) - 1} more' if names[1:] else ''}: {said}"
        for said, names in found.items()
    ]


def _same(baseline: Run, other: Run, what: str, *path: str, advice: str) -> None:
    if baseline.setting(*path) != other.setting(*path):
        raise GrainsError(f"{_differ(baseline, other, what, *path)}; {advice}")


def _differ(baseline: Run, other: Run, what: str, *path: str) -> str:
    first, second = (_short(run.setting(*path)) for run in (baseline, other))
    return f"{what} differ: {first} in '{baseline.name}', {second} in '{other.name}'"


def _suspects(baseline: Run, other: Run) -> str:
    """Settings that differ and may explain different prompts."""
    found = [what for what, key, _ in _PROMPT_SETTINGS if baseline.setting(key) != other.setting(key)]
    return f" ({' and '.join(found)} differ)" if found else ""


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else text[:12] + "…"


def _scoring_paths(baseline: Run, other: Run) -> list[str]:
    first, second = (str(run.setting("config", "scoring_path") or "plain") for run in (baseline, other))
    if first == second:
        return []
    return [
        f"'{baseline.name}' was scored on the {first} path and '{other.name}' on the {second} path: "
        "equal inputs may differ in the last digits; use share_context=false for both, or for neither"
    ]


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
        any(sample.has_image for sample in first)
        and not {sample.doc_hash for sample in first} & {sample.doc_hash for sample in second}
    )
    left, right = _keyed(first, by_hash, prompts_may_differ), _keyed(second, by_hash, prompts_may_differ)
    missing = [key for key in left if key not in right]
    if missing:
        raise GrainsError(
            f"task '{task}': {len(missing)} of {len(left)} documents of '{baseline.name}' are not in "
            f"'{other.name}'; evaluate the same documents"
        )
    known = held_out.recognised(baseline, task, list(left.values()), exclude)
    kept = tuple(not (a or b) for a, b in zip(known.by_hash, known.by_text, strict=True))
    if not any(kept):
        by_text = f" ({sum(known.by_text)} of them known by their text)" if any(known.by_text) else ""
        raise GrainsError(
            f"task '{task}': all {len(left)} documents built or tuned the vector{by_text}; evaluate documents that did "
            "not"
        )
    for key in left:
        _check_item(baseline, other, task, left[key], right[key], prompts_may_differ)
    return PairedTask(
        task=task,
        filter=name,
        baseline=tuple(left.values()),
        steered=tuple(right[key] for key in left),
        kept=kept,
        notes=tuple(held_out.notes(task, known)),
    )


def _check_item(baseline: Run, other: Run, task: str, first: Sample, second: Sample, prompts_may_differ: bool) -> None:
    """Refuse a document that has another target, other choices or another prompt in the other run."""
    if first.target_hash != second.target_hash:
        what, advice = "targets differ", "use one version of the task"
    elif [text.strip() for text in first.choices] != [text.strip() for text in second.choices]:
        what, advice = "choices differ", "use one version of the task"
    elif not prompts_may_differ and first.prompt_hash != second.prompt_hash:
        what, advice = "prompts differ", "use the same prompt, few-shot and chat-template settings"
    else:
        return
    suspects = _suspects(baseline, other) if what == "prompts differ" else ""
    between = f"{what} between '{baseline.name}' and '{other.name}'{suspects}"
    raise GrainsError(f"task '{task}', document {first.doc_id}: {between}; {advice}")


def _keyed(samples: Sequence[Sample], by_hash: bool, prompts_may_differ: bool) -> dict[Hashable, Sample]:
    """Samples by document hash and occurrence; by number, target and prompt where images spoil the hash."""
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
