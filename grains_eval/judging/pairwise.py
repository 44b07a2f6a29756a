"""Have a judge choose between the responses of two runs, each pair in both orders, and say what the order did.

Position bias: Zheng et al. 2023 (arXiv 2306.05685), section 3.3; swapping as in their section 3.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from grains_eval.comparison.logs.judged import samples_digest
from grains_eval.comparison.pairing import check, pair
from grains_eval.comparison.runs import Run
from grains_eval.errors import GrainsError
from grains_eval.judging.endpoint import Endpoint, ask
from grains_eval.judging.items import Judge, fields_of, generations, images_of, response_of
from grains_eval.judging.joined import JudgedTask, check_name, mean, refuse_path, write_judged
from grains_eval.judging.pointwise import Request, rubrics_for
from grains_eval.judging.replies import Reply, ReplyFile, request_key
from grains_eval.judging.rubrics import Rubric, render
from grains_eval.judging.verdicts import Verdict, read_preference
from grains_eval.progress import Progress, silent

_METRIC, _NONE = "judge_preferred", "judge_no_verdict"


@dataclass(frozen=True)
class PositionBias:
    """What the order of two responses did to the verdicts.

    Attributes:
        items: Items with a verdict in both orders.
        by_order: Of these, those whose verdict went with the place: the first in both orders, or the second in both.
        first: Of these, those where it was the first.
        p: Exact two-sided binomial test that first and second are as likely; 1 where no verdict went with the place.
    """

    items: int
    by_order: int
    first: int
    p: float


@dataclass(frozen=True)
class PairSummary:
    """What a judge found between two runs in one task.

    Attributes:
        task: The judged task's name.
        judge: The judge's model.
        count: Items.
        preferred: Mean preference for the second run over the items with two verdicts; one half is no difference.
        wins: Items where the second run won in both orders, or once beside a tie.
        losses: Items where the first one did.
        reasons: How often there was no verdict, by reason, over both orders.
        bias: What the order did.
        folders: Run folders with the preferences, the first run's and the second's.
    """

    task: str
    judge: str
    count: int
    preferred: float
    wins: int
    losses: int
    reasons: Mapping[str, int]
    bias: PositionBias
    folders: tuple[Path, Path]


def judge_pair(
    runs: tuple[Run, Run], endpoint: Endpoint, request: Request, folder: Path, progress: Progress = silent
) -> list[PairSummary]:
    """Have the responses of two runs compared.

    Args:
        runs: The baseline and the other.
        endpoint: Whom to ask.
        request: What is to be judged.
        folder: Where two run folders with the preferences go, which `compare` takes.
        progress: Shows how far one is.

    Raises:
        GrainsError: see `judge_run`; or the runs were not asked alike, or a rubric has no `pairwise` section.
    """
    chosen = rubrics_for(runs[0], request)
    for task, rubric in chosen.items():
        if rubric.pairwise is None:
            raise GrainsError(f"rubric '{rubric.name}' of task '{task}' has no section 'pairwise'")
        if task not in runs[1].tasks:
            raise GrainsError(f"task '{task}' is in run '{runs[0].name}' but not in '{runs[1].name}'")
    check(*runs, tuple(chosen))
    return [_judge_task(runs, task, rubric, endpoint, request, folder, progress) for task, rubric in chosen.items()]


def _judge_task(
    runs: tuple[Run, Run],
    task: str,
    rubric: Rubric,
    endpoint: Endpoint,
    request: Request,
    folder: Path,
    progress: Progress,
) -> PairSummary:
    # what a run is preferred to is part of how it was scored: against another one it is another score
    pair_of = [samples_digest(run, task) for run in runs]
    judge = Judge(endpoint.model, rubric, {**rubric.generation, **(request.generation or {})}, request.images)
    name = f"{task}_preferred" if request.name is None else request.name
    homes = _homes(runs, folder)
    for run, home in zip(runs, homes, strict=True):
        check_name(run, name, home)
    rows = _aligned(runs, task)
    images = images_of(task, [one for one, _ in rows], request.image_tasks)
    orders = [
        tuple(_request(judge, task, row, shown, is_swapped) for is_swapped in (False, True))
        for row, shown in zip(rows, images, strict=True)
    ]
    requests = {request_key(each): each for both in orders for each in both}
    replies = ReplyFile(folder / f"judge_{request_key({**judge.identity(), 'pairwise': True})[:12]}.jsonl")
    ask(endpoint, requests, replies, progress)
    found = [tuple(replies.replies[request_key(each)] for each in both) for both in orders]
    assert rubric.pairwise is not None
    verdicts = [tuple(read_preference(reply, rubric.pairwise) for reply in both) for both in found]
    identity = {**judge.identity(), "pairwise": True, "pair": pair_of}
    for side, (run, home) in enumerate(zip(runs, homes, strict=True)):
        judged = _judged(identity, name, task, [row[side] for row in rows], found, verdicts, side)
        write_judged(run, judged, home, overwrite=request.overwrite)
    return _summary(name, judge, verdicts, (homes[0].parent, homes[1].parent))


def _aligned(runs: tuple[Run, Run], task: str) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The rows of both runs, same documents, same order; `compare` leaves out those that built a vector."""
    paired = next(iter(pair(*runs, task)))
    first, second = ({int(row["doc_id"]): row for row in generations(run, task)} for run in runs)
    return [(first[a.doc_id], second[b.doc_id]) for a, b in zip(paired.baseline, paired.steered, strict=True)]


def _request(
    judge: Judge, task: str, rows: tuple[Mapping[str, Any], Mapping[str, Any]], images: Sequence[str], is_swapped: bool
) -> dict[str, Any]:
    assert judge.rubric.pairwise is not None
    one, two = (response_of(row, task) for row in rows)
    first, second = (two, one) if is_swapped else (one, two)
    where = f"rubric '{judge.rubric.name}', task '{task}', document {rows[0]['doc_id']}"
    fields = {**fields_of(rows[0], task), "first": first, "second": second}
    fields.pop("response")
    return judge.request(render(judge.rubric.pairwise.prompt, fields, where), images)


def _preference(both: Sequence[Verdict]) -> float | None:
    """For the second run, over both orders; None unless both have a verdict."""
    plain, swapped = (verdict.score for verdict in both)
    return None if plain is None or swapped is None else ((1 - plain) + swapped) / 2


def _judged(
    judge: Mapping[str, Any],
    name: str,
    task: str,
    rows: Sequence[Mapping[str, Any]],
    replies: Sequence[Sequence[Reply]],
    verdicts: Sequence[Sequence[Verdict]],
    side: int,
) -> JudgedTask:
    values: list[dict[str, float | None]] = []
    for both in verdicts:
        score = _preference(both)
        own = None if score is None else score if side == 1 else 1 - score
        values.append({_METRIC: own, _NONE: float(score is None)})
    return JudgedTask(
        name=name,
        task=task,
        rows=rows,
        values=values,
        details=[
            {"reply": both[0].text, "swapped": both[1].text, "no_verdict": [verdict.reason for verdict in two]}
            for both, two in zip(replies, verdicts, strict=True)
        ],
        directions={_METRIC: True, _NONE: False},
        judge=judge,
        served=sorted({reply.served for both in replies for reply in both if reply.served}),
    )


def _homes(runs: tuple[Run, Run], folder: Path) -> tuple[Path, Path]:
    """Where each run's preferences go: a folder for the pair, and in it what lm-eval makes for a run."""
    first, second = (refuse_path(run.name.replace("/", "_"), "a run called") for run in runs)
    labels = (first, second if second != first else f"{second}_2")
    models = (refuse_path(str(run.setting("model_name_sanitized") or "model"), "model_name_sanitized") for run in runs)
    one, two = (
        folder / f"{labels[0]}_and_{labels[1]}" / label / model for label, model in zip(labels, models, strict=True)
    )
    return one, two


def position_bias(verdicts: Sequence[Sequence[Verdict]]) -> PositionBias:
    """What the order did, from pairs of verdicts that each prefer the first (1) or the second response (0)."""
    scored = [(plain.score, swapped.score) for plain, swapped in verdicts]
    both = [pair for pair in scored if None not in pair]
    first, second = both.count((1.0, 1.0)), both.count((0.0, 0.0))
    p = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return PositionBias(len(both), first + second, first, p)


def _summary(name: str, judge: Judge, verdicts: Sequence[Sequence[Verdict]], folders: tuple[Path, Path]) -> PairSummary:
    scores = [_preference(both) for both in verdicts]
    reasons = Counter(verdict.reason for both in verdicts for verdict in both if verdict.reason)
    return PairSummary(
        task=name,
        judge=judge.model,
        count=len(verdicts),
        preferred=mean(scores),
        wins=sum(score is not None and score > 0.5 for score in scores),
        losses=sum(score is not None and score < 0.5 for score in scores),
        reasons=dict(sorted(reasons.items())),
        bias=position_bias(verdicts),
        folders=folders,
    )
