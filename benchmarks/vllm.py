"""What steering costs a vLLM engine, and what an engine gains over `grains_hf`, on a generation task.

    python -m benchmarks.vllm --toy --output benchmarks/results/vllm.json
    python -m benchmarks.vllm --model meta-llama/Llama-3.1-8B --dtype bfloat16 --device cuda --requests 512

The first runs on a CPU in the environment of `make test-vllm`, compiled, on a Llama of random weights; the second on
a GPU, with graphs. Sides: the plain engine, a steerable engine whose requests are not steered, one vector for all
requests, and 16 vectors in turn in one batch. Every side runs in a process of its own, one after another, as engines
would share memory and cores; times are those of the answers alone, after a first round, in CPU seconds on a CPU,
where the engine runs inside the process, and by the wall on a GPU. Goals at full size: 16 vectors cost at most 3 % of
the plain engine, and an engine is at least ten times as fast as `grains_hf`.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from benchmarks import common

SIDES = {
    "vllm, plain": (0, 0),
    "vllm, steerable, nothing steered": (16, 0),
    "vllm, 1 vector": (16, 1),
    "vllm, 16 vectors in one batch": (16, 16),
    "grains_hf, 1 vector": (None, 1),
}


def prompts(count: int, length: int, vocabulary: int) -> list[list[int]]:
    """Random token ids."""
    draw = random.Random(0)
    return [[draw.randrange(4, vocabulary) for _ in range(length)] for _ in range(count)]


def applied(number: int, depth: int, width: int) -> Any:
    """A random vector at the middle layer."""
    from grains_eval.artifacts.layout import Artifact
    from grains_eval.harness.arguments import AppliedArtifact
    from grains_eval.steering import resolve
    from grains_eval.types import SteeringConfig, SteeringVectors

    direction = torch.randn(width, generator=torch.Generator().manual_seed(number))
    vectors = SteeringVectors({depth // 2: direction}, {depth // 2: 1.0}, provenance={"method": "random"})
    config = SteeringConfig(strength=0.5)
    return AppliedArtifact("random", Artifact("random", vectors, None, None, {}), config, resolve(vectors, config))


def timed(side: str, arguments: Any) -> list[float]:
    """Tokens a second of every repeat."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(arguments.model).get_text_config(decoder=True)
    rows, vectors = SIDES[side]
    asked = prompts(arguments.requests, arguments.length, int(config.vocab_size))
    chosen = [applied(number, config.num_hidden_layers, config.hidden_size) for number in range(vectors)]
    work = _hf(asked, chosen, arguments) if rows is None else _vllm(asked, chosen, rows, arguments)
    work()  # compiles, and fills what is filled once
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    found: list[float] = []
    for _ in range(arguments.repeats):
        start = clock()
        tokens = work()
        found.append(tokens / (clock() - start))
    return found


def _vllm(asked: list[list[int]], chosen: list[Any], rows: int, arguments: Any) -> Any:
    from grains_eval.vllm.library import sampling_parameters
    from grains_eval.vllm.model import GrainsVLLM
    from grains_eval.vllm.settings import Setting, setting_of

    longest = arguments.length + arguments.new + 8
    alone: dict[str, Any] = {}
    if arguments.device == "cpu":
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        alone = {"distributed_executor_backend": "uni"}
    lm = GrainsVLLM(
        pretrained=arguments.model,
        dtype=arguments.dtype,
        max_model_len=longest,
        max_settings=rows,
        enable_prefix_caching=False,
        max_num_seqs=min(256, arguments.requests),
        **alone,
    )
    parameters = sampling_parameters(temperature=0, max_tokens=arguments.new, ignore_eos=True, detokenize=False)
    settings = [setting_of((item.resolved,)) for item in chosen] or [Setting()]
    if rows:
        lm.engine.load(settings)

    def work() -> int:
        given = [parameters] * len(asked)
        if rows:
            which = [settings[number % len(settings)] for number in range(len(asked))]
            outputs = lm.engine.generate(
                [{"prompt_token_ids": each} for each in asked],
                given,
                which,
                [len(each) for each in asked],
                use_tqdm=False,
            )
        else:
            inputs = [{"prompt_token_ids": each} for each in asked]
            outputs = lm.model.generate(inputs, sampling_params=given, use_tqdm=False)
        return sum(len(each.outputs[0].token_ids) for each in outputs)

    return work


def _hf(asked: list[list[int]], chosen: list[Any], arguments: Any) -> Any:
    from grains_eval.harness.model import GrainsHF

    lm = GrainsHF(pretrained=arguments.model, dtype=arguments.dtype, device=arguments.device)
    lm.steer(tuple(chosen))

    def work() -> int:
        total = 0
        for start in range(0, len(asked), arguments.batch):
            inputs = torch.tensor(asked[start : start + arguments.batch], device=lm.device)
            options = {"max_new_tokens": arguments.new, "min_new_tokens": arguments.new, "do_sample": False}
            with lm.steering(), torch.inference_mode():
                total += lm.model.generate(inputs, **options)[:, inputs.shape[1] :].numel()
        return total

    return work


def main() -> None:
    """Time every side in a process of its own."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="a Llama of random weights, on the CPU, compiled")
    parser.add_argument("--model", help="folder or hub id")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--length", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--batch", type=int, default=8, help="of grains_hf")
    parser.add_argument("--side", choices=SIDES, help="time this one and print its numbers")
    arguments = parser.parse_args()
    common.start(arguments)
    if arguments.side:
        print("tokens a second:", json.dumps(timed(arguments.side, arguments)))
        return
    if not (arguments.toy or arguments.smoke or arguments.model):
        parser.error("give --toy, or --model and a GPU")
    with tempfile.TemporaryDirectory() as place:
        extra: list[str] = []
        if arguments.model is None:
            size = {"layers": 2, "width": 128} if arguments.smoke else {"layers": 8, "width": 512}
            model = common.llama(**size, vocabulary=4096, positions=512)
            model.save_pretrained(place)
            common.tokenizer().save_pretrained(place)
            extra = ["--model", place]
        if arguments.smoke:
            extra += ["--requests", "4", "--new", "4", "--repeats", "1"]
        found: dict[str, list[float]] = {}
        for side in list(SIDES)[: 2 if arguments.smoke else None]:
            command = [sys.executable, "-m", "benchmarks.vllm", *sys.argv[1:], *extra, "--side", side]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
            line = next((each for each in done.stdout.splitlines() if each.startswith("tokens a second:")), None)
            if line is None:
                raise SystemExit(f"{side}: {done.stderr[-2000:]}")
            found[side] = json.loads(line.partition(":")[2])
            print(side, found[side], flush=True)
    plain = statistics.median(found["vllm, plain"])
    slow = statistics.median(found.get("grains_hf, 1 vector", [float("nan")]))
    rows = [
        {
            "side": side,
            "tokens a second, median": statistics.median(speeds),
            "slowest": min(speeds),
            "fastest": max(speeds),
            "time against plain vllm": plain / statistics.median(speeds),
            "speed against grains_hf": statistics.median(speeds) / slow,
        }
        for side, speeds in found.items()
    ]
    common.report("vllm", rows, arguments)


if __name__ == "__main__":
    main()
