"""`judge`: rate logged generations with a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from grains_eval.cli.command import Command, names
from grains_eval.errors import GrainsError


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN_DIR", help="a run folder of lm-eval; with --pairwise the baseline's and another"
    )
    judge = parser.add_argument_group("judge")
    judge.add_argument("--base_url", required=True, metavar="URL", help="e.g. http://127.0.0.1:8000/v1")
    judge.add_argument("--model", required=True, metavar="NAME", help="the judge's name at the endpoint")
    judge.add_argument("--gen_kwargs", nargs="+", default=[], metavar="KEY=VALUE", help="over the rubric's")
    judge.add_argument("--concurrency", type=int, default=8, metavar="N", help="requests under way at once (default 8)")
    judge.add_argument("--max_requests", type=int, metavar="N", help="new requests in this run at most")
    judge.add_argument("--retries", type=int, default=6, metavar="N", help="further attempts at a request (default 6)")
    judge.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="of an attempt (default 120)")
    what = parser.add_argument_group("what is judged")
    what.add_argument("--rubric", metavar="FILE", help="a YAML file, or mmhal_bench, spa_vl_harm or spa_vl_help")
    what.add_argument("--tasks", "-t", type=names, metavar="A,B", help="default: those that a rubric names")
    what.add_argument("--images", action="store_true", help="show the judge the images of the questions")
    what.add_argument("--include_path", action="append", default=[], metavar="FOLDER", help="tasks of your own")
    what.add_argument("--pairwise", action="store_true", help="compare the responses of two runs, in both orders")
    output = parser.add_argument_group("output")
    output.add_argument("--as", dest="name", metavar="NAME", help="name of the judged task (default TASK_judged)")
    output.add_argument(
        "--output_path", "-o", type=Path, metavar="FOLDER", help="with --pairwise: where runs go (default runs/judge)"
    )
    output.add_argument("--overwrite", action="store_true", help="replace scores of that name")


def _judge(options: argparse.Namespace) -> None:
    from grains_eval.cli.terminal import bars, output
    from grains_eval.comparison.logs import read_run
    from grains_eval.judging.endpoint import Endpoint
    from grains_eval.judging.pairwise import judge_pair
    from grains_eval.judging.pointwise import Request, judge_run
    from grains_eval.judging.tables import show_preferences, show_ratings

    if options.pairwise != (len(options.runs) == 2):
        raise GrainsError("judge takes one run folder, or two with --pairwise")
    if options.output_path is not None and not options.pairwise:
        raise GrainsError("--output_path applies to --pairwise; ratings join the run that they are of")
    endpoint = Endpoint(
        options.base_url, options.model, options.concurrency, options.max_requests, options.retries, options.timeout
    )
    request = Request(
        rubric=options.rubric,
        tasks=options.tasks,
        name=options.name,
        generation=_parameters(options.gen_kwargs),
        images=options.images,
        include_path=options.include_path,
        overwrite=options.overwrite,
    )
    runs = [read_run(folder) for folder in options.runs]
    console = output()
    if not options.pairwise:
        for rated in judge_run(runs[0], endpoint, request, bars):
            show_ratings(rated, console)
        return
    for found in judge_pair((runs[0], runs[1]), endpoint, request, options.output_path or Path("runs/judge"), bars):
        show_preferences(found, console)


def _parameters(words: list[str]) -> dict[str, Any]:
    """`key=value` as YAML reads the value; commas part them where another `key=` follows, so that values may be lists.

    Raises:
        GrainsError: no `=`, a value that JSON has not, or a parameter that is the judge's own.
    """
    from grains_eval.plain_values import not_json, read_yaml

    found: dict[str, Any] = {}
    for word in (part for text in words for part in re.split(r",(?=\s*\w+=)", text)):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not key:
            raise GrainsError(f"--gen_kwargs '{word}' is not KEY=VALUE; write for example temperature=0")
        if key in ("model", "messages", "stream", "n"):
            raise GrainsError(f"--gen_kwargs may not set {key}")
        try:
            found[key] = read_yaml(value)
        except GrainsError as error:
            raise GrainsError(f"--gen_kwargs '{word}' is {error}") from error
        if reason := not_json(found[key]):
            raise GrainsError(f"--gen_kwargs '{word}' cannot be sent: {reason}; quote it to send it as text")
    return found


COMMANDS = (
    Command(
        "judge",
        "rate logged generations with a model behind an OpenAI-compatible endpoint",
        "grains-eval judge runs/steered --base_url http://127.0.0.1:8000/v1 --model org/judge",
        _arguments,
        _judge,
        "Rate the generations of a run made with --log_samples and join the ratings to it as lm-eval samples, which\n"
        "`compare` reads like any metric. The same command again goes on where it stopped and asks nothing twice.",
    ),
)
