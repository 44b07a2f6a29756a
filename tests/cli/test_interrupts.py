"""A command that is killed or interrupted, and started again, ends with the same bytes as one that was left alone.

It is ended before every kind of change that it makes to files: a process dies between two of them or within one, which
leaves what was written so far.
"""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from grains_eval.demo.run import demo_model_args
from tests import forked
from tests.judging import runs
from tests.judging.server import serving

MODEL = ",".join(f"{key}={value}" for key, value in demo_model_args("text_split").items())
SMALL = [
    *("--config", "demo/text_split", "--model_args", MODEL, "--set", "data.examples=6", "--set", "data.development=6"),
    *("--set", "evaluation.limit=20", "--set", "evaluation.control_draws=1", "-o", "out/made"),
]
KILL, INTERRUPT = int(signal.SIGKILL), int(signal.SIGINT)


def ended(words: list[str], home: Path, *, before: Path | None = None, points: int = 4, last: int = 3):
    """The tree of a run that was left alone, and those of runs that were ended at some point and started again.

    Args:
        words: The command.
        home: Where; each run has a folder of its own, in which its paths are the same.
        before: What lies there first.
        points: Changes at which it is ended, evenly spread over all of them.
        last: Changes at the end of all of which it is ended.
    """
    whole = _steps(words, home / "whole", before, [0])
    (made,) = [each for each in forked.run(whole) if isinstance(each, dict)]
    assert made["code"] == 0, made["err"]
    count = made["changes"]
    assert count > last
    spread = {max(1, round(count * number / points)) for number in range(points)}
    cuts = sorted(spread | {count - number for number in range(last)})
    steps, places = [], {}
    for at in cuts:
        for name, sign in (("killed", KILL), ("interrupted", INTERRUPT)):
            if sign == KILL or at in sorted(spread)[1::2]:
                place = places[f"{name} at {at} of {count}"] = home / f"{name}-{at}"
                steps += _steps(words, place, before, [at, 0], sign)
    results = [each for each in forked.run(steps) if isinstance(each, dict)]
    for (what, place), first, again in zip(places.items(), results[::2], results[1::2], strict=True):
        if what.startswith("killed"):
            assert first["code"] == -KILL, (what, first)
        else:
            assert first["code"] == 130, (what, first)
            (line,) = [line for line in first["err"].splitlines() if line.startswith("grains-eval: ")]
            assert line == "grains-eval: interrupted; the same command again goes on where this one stopped"
            assert "Traceback" not in first["err"], what
        # all was done when it died, only its own leavings were still there
        is_done = again["code"] == 2 and "exists; " in again["err"]
        assert again["code"] == 0 or is_done, (what, again)
        yield what, home / "whole" / "out", place / "out"


def _steps(words, place, before, cuts, sign=KILL):
    place.mkdir(parents=True)
    steps = [] if before is None else [{"do": "copy", "source": str(before), "target": str(place)}]
    return [*steps, *({"do": "command", "words": words, "cwd": str(place), "at": at, "sign": sign} for at in cuts)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        ["attribution.method=integrated_gradients"],
        ["attribution.method=smoothgrad", "attribution.samples=3", "steering.layers=auto", "steering.strength=auto"],
    ],
    ids=["fixed", "chosen"],
)
def test_builds(changed, tmp_path):
    words = ["build", *SMALL, *(word for key in changed for word in ("--set", key))]
    for what, whole, place in ended(words, tmp_path):
        assert forked.listing(place) == forked.listing(whole), what


@pytest.mark.slow
def test_sweeps(tmp_path):
    words = ["sweep", *SMALL, "--layers", "1,3", "--strengths", "1", "--top_k", "1,2"]
    for what, whole, place in ended(words, tmp_path):
        assert forked.listing(place) == forked.listing(whole), what


@pytest.mark.slow
def test_comparisons(tmp_path):
    words = ["compare", *SMALL, "--methods", "grains"]
    for what, whole, place in ended(words, tmp_path, points=5, last=4):
        assert undated(place) == undated(whole), what


STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d+")
DAY = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
PROOF = re.compile(r"scores computed both ways: \d+, \S+ nats apart at most")  # of the process that computed them
TIMES = ("date", "start_time", "end_time", "total_evaluation_time_seconds")  # of lm-eval's results


def undated(place):
    """Files by name and content without dates: those of lm-eval's results, which name its files, and the report's own.

    Also without how closely a process's two ways of scoring agreed, which depends on what it scored, and without the
    SHA-256 of results in a report, which both change.
    """
    found, digests = {}, {}
    for file in sorted(each for each in place.rglob("*") if each.is_file()):
        content = file.read_bytes()
        if file.name.startswith("results_"):
            results = json.loads(content)
            digests[forked.hashlib.sha256(content).hexdigest()[:16]] = f"digest of {file.relative_to(place).parts[2]}"
            content = PROOF.sub("PROOF", json.dumps({k: v for k, v in results.items() if k not in TIMES})).encode()
        found[STAMP.sub("DATE", str(file.relative_to(place)))] = content
    for name in [name for name in found if name.rpartition("/")[2].startswith("report.")]:
        text = PROOF.sub("PROOF", DAY.sub("DATE", STAMP.sub("DATE", found[name].decode())))
        found[name] = re.sub(r"\b[0-9a-f]{16}\b", lambda match: digests.get(match[0], match[0]), text).encode()
    return {name: forked.hashlib.sha256(content).hexdigest() for name, content in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("pairwise", [False, True], ids=["pointwise", "pairwise"])
def test_judges(pairwise, tmp_path):
    before, docs = tmp_path / "before", None
    if pairwise:
        docs = [{"question": f"q {number}", "class1": "c", "question_type": "x"} for number in range(runs.COUNT)]
    for name, good in (("baseline", 4), ("run", 8)):
        runs.write(before / "out" / name, good, task="spa_vl_help" if pairwise else "mmhal_bench", docs=docs)
    reply = (lambda text: "Verdict: A") if pairwise else runs.rate
    with serving(reply) as server:
        places = ["out/baseline", "out/run", "--pairwise", "-o", "out/made"] if pairwise else ["out/run"]
        words = ["judge", *places, "--base_url", server.url, "--model", "judge", "--concurrency", "3"]
        for what, whole, place in ended(words, tmp_path, before=before):
            assert forked.listing(place) == forked.listing(whole), what


@pytest.mark.slow
def test_reports_of_runs(tmp_path):
    before = tmp_path / "before"
    runs.write(before / "baseline", good=4)
    runs.write(before / "other", good=8)
    words = ["compare", "baseline", "other", "-o", "out/made", "--metrics", "empty", "--margin", "0.1"]
    for what, whole, place in ended(words, tmp_path, before=before, points=3, last=5):
        assert undated(place) == undated(whole), what
