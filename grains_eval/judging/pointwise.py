"""Rate every logged generation of a run, and join the ratings to the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grains_eval.comparison.runs import Run
from grains_eval.errors import GrainsError
from grains_eval.judging.endpoint import Endpoint, ask
from grains_eval.judging.items import Judge, generations, images_of, requests_of
from grains_eval.judging.joined import JudgedTask, check_name, mean, write_judged
from grains_eval.judging.replies import Reply, ReplyFile, request_key
from grains_eval.judging.rubrics import Rubric, bundled, load_rubric
from grains_eval.judging.verdicts import Verdict, read_verdict
from grains_eval.progress import Progress, silent


@dataclass(frozen=True)
class Summary:
    """What a judge found in one task.

    Attributes:
        task: The judged task's name.
        judge: The judge's model.
        count: Items.
        means: Mean by metric, over the items that have one.
        reasons: How often there was no verdict, by reason.
        parts: By value of the rubric's field: number of items, and means by metric.
        file: The results file.
    """

    task: str
    judge: str
    count: int
    means: Mapping[str, float]
    reasons: Mapping[str, int]
    parts: Mapping[str, tuple[int, Mapping[str, float]]]
    file: Path


@dataclass(frozen=True)
class Request:
    """What is to be judged, and how.

    Attributes:
        rubric: A file or bundled name; None takes the bundled one that names the task.
        tasks: Tasks to judge; None takes those that a rubric names.
        name: What the judged task is called; default `TASK_judged`.
        generation: Parameters of the requests over the rubric's.
        images: Show the judge the images.
        include_path: Where tasks with images are found.
        overwrite: Replace scores of that name.
    """

    rubric: str | None = None
    tasks: Sequence[str] | None = None
    name: str | None = None
    generation: Mapping[str, Any] | None = None
    images: bool = False
    include_path: Sequence[str] = ()
    overwrite: bool = False

    @property
    def image_tasks(self) -> Sequence[str] | None:
        """Where tasks with images are found; None where the judge is shown none."""
        return self.include_path if self.images else None


def judge_run(run: Run, endpoint: Endpoint, request: Request, progress: Progress = silent) -> list[Summary]:
    """Rate the generations of a run's tasks.

    Raises:
        GrainsError: no task to judge, a rubric that does not fit, an endpoint that does not answer, or other scores are
            there.
    """
    chosen = rubrics_for(run, request)
    if request.name is not None and len(chosen) > 1:
        raise GrainsError(f"--as '{request.name}' names one task, and {len(chosen)} are judged; add --tasks")
    return [_judge_task(run, task, rubric, endpoint, request, progress) for task, rubric in chosen.items()]


def rubrics_for(run: Run, request: Request) -> dict[str, Rubric]:
    """The rubric of each task to be judged.

    Raises:
        GrainsError: a task that the run lacks, one without rubric, or none at all.
    """
    given = None if request.rubric is None else load_rubric(request.rubric)
    known = {task: rubric for rubric in map(load_rubric, bundled()) for task in rubric.tasks}
    wanted = request.tasks
    if wanted is None:
        named = known if given is None else given.tasks
        wanted = [task for task in run.tasks if task in named]
    for task in wanted:
        if task not in run.tasks:
            raise GrainsError(f"run '{run.name}' has no task '{task}'; its tasks are {', '.join(run.tasks)}")
        if given is None and task not in known:
            raise GrainsError(
                f"no rubric is bundled for task '{task}'; give one with --rubric ({', '.join(bundled())})"
            )
    if not wanted:
        raise GrainsError(f"run '{run.name}' has no task that a rubric names; add --tasks and --rubric")
    return {task: known[task] if given is None else given for task in wanted}


def _judge_task(
    run: Run, task: str, rubric: Rubric, endpoint: Endpoint, request: Request, progress: Progress
) -> Summary:
    judge = Judge(endpoint.model, rubric, {**rubric.generation, **(request.generation or {})}, request.images)
    name, folder = f"{task}_judged" if request.name is None else request.name, run.sources[task].file.parent
    check_name(run, name, folder)
    rows = generations(run, task)
    requests = requests_of(judge, task, rows, images_of(task, rows, request.image_tasks))
    keys = [request_key(each) for each in requests]
    replies = ReplyFile(folder / f"judge_{request_key(judge.identity())[:12]}.jsonl")
    ask(endpoint, dict(zip(keys, requests, strict=True)), replies, progress)
    judged = _scored(judge, name, task, rows, [replies.replies[key] for key in keys])
    file = write_judged(run, judged, folder, overwrite=request.overwrite)
    return _summary(judged, rubric, file)


def _scored(
    judge: Judge, name: str, task: str, rows: Sequence[Mapping[str, Any]], replies: Sequence[Reply]
) -> JudgedTask:
    rubric = judge.rubric
    verdicts = [read_verdict(reply, rubric.verdict) for reply in replies]
    directions = {f"judge_{rubric.metric}": rubric.higher_is_better}
    directions |= {f"judge_{share}": section.higher_is_better for share, section in rubric.shares.items()}
    if rubric.official_unparsed is not None:
        directions |= {f"{metric}_official": higher for metric, higher in directions.items()}
    directions["judge_no_verdict"] = False
    return JudgedTask(
        name=name,
        task=task,
        rows=rows,
        values=[_values(rubric, verdict) for verdict in verdicts],
        details=[
            {"reply": reply.text, "no_verdict": verdict.reason, **({"error": reply.error} if reply.error else {})}
            for reply, verdict in zip(replies, verdicts, strict=True)
        ],
        directions=directions,
        judge=judge.identity(),
        served=sorted({reply.served for reply in replies if reply.served}),
    )


def _values(rubric: Rubric, verdict: Verdict) -> dict[str, float | None]:
    """All metrics of one item: None without a verdict, and beside it what the benchmark's own rule makes of that."""

    def metrics(score: float | None) -> dict[str, float | None]:
        shares = {name: None if score is None else share.of(score) for name, share in rubric.shares.items()}
        return {f"judge_{name}": value for name, value in {rubric.metric: score, **shares}.items()}

    found = metrics(verdict.score)
    if rubric.official_unparsed is not None:
        official = metrics(rubric.official_unparsed if verdict.score is None else verdict.score)
        found |= {f"{name}_official": value for name, value in official.items()}
    return {**found, "judge_no_verdict": float(verdict.score is None)}


def _summary(judged: JudgedTask, rubric: Rubric, file: Path) -> Summary:
    def means(index: Sequence[int]) -> dict[str, float]:
        return {metric: mean([judged.values[i][metric] for i in index]) for metric in judged.directions}

    parts: dict[str, list[int]] = {}
    for index, row in enumerate(judged.rows):
        doc: Any = row.get("doc")
        if rubric.by is not None and isinstance(doc, Mapping) and rubric.by in doc:
            parts.setdefault(str(doc[rubric.by]), []).append(index)
    reasons = Counter(str(detail["no_verdict"]) for detail in judged.details if detail["no_verdict"])
    return Summary(
        task=judged.name,
        judge=str(judged.judge["model"]),
        count=len(judged.rows),
        means=means(range(len(judged.rows))),
        reasons=dict(sorted(reasons.items())),
        parts={value: (len(index), means(index)) for value, index in sorted(parts.items())},
        file=file,
    )
