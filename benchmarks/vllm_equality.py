"""vLLM against Hugging Face under the same settings, family by family, in float32 at toy size.

    python -m benchmarks.vllm_equality --output benchmarks/results/vllm_equality.json

Run in the environment of `make test-vllm`. Every family runs under 13 settings (operators, units, rules, composed
vectors) and unsteered, all in one compiled engine, on prompts with images where it takes any; a difference above twice
that of the unsteered engines, or another greedy answer, is printed as `WRONG` and ends the command with exit code 1.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from benchmarks import common
from tests.vllm import checks
from tests.vllm.families import COMPARED, SEEING, build, build_vision

SPLIT = {"tensor parallel 2": "tensor_parallel_size", "pipeline parallel 2": "pipeline_parallel_size"}


def row(family: str, how: str, eager: bool) -> dict[str, Any]:
    """One engine of one family."""
    alone = how == "one process"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if alone else "1"
    options: dict[str, Any] = checks.ALONE if alone else {SPLIT[how]: 2}
    with tempfile.TemporaryDirectory() as place:
        sees = family in SEEING
        folder = (build_vision if sees else build)(family, Path(place) / family)
        asked = checks.image_requests if sees else checks.requests
        wanted = checks.measure(checks.reference(folder), checks.settings(), asked)
        with checks.engine(folder, max_settings=20, max_vectors=2, enforce_eager=eager, **options) as lm:
            found = checks.compare(checks.measure(lm, checks.settings(), asked), wanted)
            name = lm.engine.reports[0]["model"]
    plain = found.pop("unsteered")
    same = sum(each.same_answers for each in found.values())
    wrong = [each for each, difference in found.items() if not difference.agrees(plain)]
    return {
        "family": family,
        "class in vLLM": name,
        "engine": how + (", eager" if eager else ", compiled"),
        "settings": len(found),
        "unsteered, nats": plain.loglikelihood,
        "steered, largest, nats": max(each.loglikelihood for each in found.values()),
        "moved by, median, nats": sorted(each.moved for each in found.values())[len(found) // 2],
        "same greedy answers": f"{same}/{sum(each.answers for each in found.values())}",
        "within twice the unsteered": "yes" if not wrong else f"WRONG: {', '.join(wrong)}",
    }


def main() -> None:
    """Compare every family."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="these families; others stay as in --output")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    arguments = parser.parse_args()
    common.start(arguments)
    os.environ["TQDM_DISABLE"] = "1"
    plan = [(family, "one process") for family in (*COMPARED, *SEEING)] + [("llama", how) for how in SPLIT]
    if arguments.smoke:
        plan = plan[:1]
    old = arguments.output
    known = json.loads(old.read_text())["rows"] if old is not None and old.is_file() else []
    before = {(each["family"], each["engine"].partition(",")[0]): each for each in known}
    rows: list[dict[str, Any]] = []
    for family, how in plan:
        if arguments.only and family not in arguments.only:
            rows += [before[family, how]] if (family, how) in before else []
            continue
        rows.append(row(family, how, arguments.eager))
        print(" | ".join(map(str, rows[-1].values())), flush=True)
    if arguments.only:
        sys.argv[1:] = []  # what makes the whole table
    common.report("vllm_equality", rows, arguments)
    if any("WRONG" in str(each.values()) for each in rows):
        raise SystemExit("differences above twice those of the unsteered engines")


if __name__ == "__main__":
    main()
