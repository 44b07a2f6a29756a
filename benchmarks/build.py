"""One example of a build: `grains_eval` against the obvious way, in CPU seconds and peak memory.

    python -m benchmarks.build --output benchmarks/results/build.json

The obvious way is captum's Integrated Gradients over the whole model as it was loaded: logits of the whole sequence,
parameters that require gradients, the prompt run anew for each response, one pass of attribution for the positive
selection and one for the negative, then three forward passes for the masked contrast. It is measured twice: `backward`
takes the nodes' gradients by `backward()`, which fills the parameters' gradients too, as a loop written by hand does;
`captum` asks autograd for the inputs' gradient alone. All sides use the same nodes, and their scores and contrasts must
agree.

Peak memory is that of a process of its own for each side, above the same process with the model loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from captum.attr import IntegratedGradients
from torch import Tensor

from benchmarks import common, peak
from grains_eval.attribution import attribute
from grains_eval.attribution.baselines import prompt_baseline
from grains_eval.models import EncodedExample, LoadedModel
from grains_eval.models.activations import prompt_states
from grains_eval.recipes import AttributionConfig
from grains_eval.types import PreferenceExample

TOP = 10


@dataclass(frozen=True)
class Outcome:
    """What a build takes from one example: `[T]` scores, and `[3, L, H]` states of the masked contrast."""

    scores: Tensor
    states: Tensor


def example(model: transformers.PreTrainedModel, prompt: int, responses: tuple[int, int], seed: int) -> EncodedExample:
    """A random prompt of so many tokens with two random responses."""
    draw = torch.Generator().manual_seed(seed)
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    device = model.get_input_embeddings().weight.device

    def tokens(count: int) -> Tensor:
        return torch.randint(4, vocabulary, (count,), generator=draw).to(device)

    ids = tokens(prompt)
    return EncodedExample(
        example=PreferenceExample(f"e{seed}", f"h{seed}", "", "", ""),
        input_ids=ids,
        tokens=tuple(map(str, ids.tolist())),
        embeddings=model.get_input_embeddings()(ids).detach(),
        is_image=torch.zeros(prompt, dtype=torch.bool),
        is_candidate=torch.ones(prompt, dtype=torch.bool),
        chosen=tokens(responses[0]),
        rejected=tokens(responses[1]),
    )


def top(scores: Tensor, largest: bool) -> list[int]:
    """Positions of the `TOP` most positive or most negative scores."""
    return scores.topk(min(TOP, len(scores) // 3), largest=largest).indices.tolist()


def variants(one: EncodedExample, baseline: Tensor, positive: list[int], negative: list[int]) -> Tensor:
    """`[3, T, H]`: the prompt, without its positive tokens, without its negative ones."""
    rows = one.embeddings.float().repeat(3, 1, 1)
    for row, positions in ((1, positive), (2, negative)):
        rows[row, positions] = baseline[positions]
    return rows


def ours(loaded: LoadedModel, one: EncodedExample, config: AttributionConfig) -> Outcome:
    """The product's own functions."""
    scores = attribute(loaded, one, config).scores
    rows = variants(one, prompt_baseline(loaded.model, one, config), top(scores, True), top(scores, False))
    return Outcome(scores, prompt_states(loaded.model, one, rows).last)


def obvious(loaded: LoadedModel, one: EncodedExample, config: AttributionConfig, how: str) -> Outcome:
    """What one writes first; see the module's text."""
    model = loaded.model
    baseline = prompt_baseline(model, one, config)
    inputs = one.embeddings.float()

    def preference(prompts: Tensor) -> Tensor:
        total = prompts.new_zeros(len(prompts))
        for sign, response in ((1.0, one.chosen), (-1.0, one.rejected)):
            tail = model.get_input_embeddings()(response)[None].expand(len(prompts), -1, -1)
            logits = model(inputs_embeds=torch.cat([prompts.to(tail.dtype), tail], dim=1)).logits
            logprobs = logits.float().log_softmax(dim=-1)[:, prompts.shape[1] - 1 : -1]
            total = total + sign * logprobs.gather(-1, response[None, :, None].expand(len(prompts), -1, -1)).sum((1, 2))
        return total

    def attributed() -> Tensor:
        if how == "captum":
            return (
                IntegratedGradients(preference)
                .attribute(inputs[None], baselines=baseline[None], n_steps=config.steps, method="gausslegendre")[0]
                .sum(dim=-1)
            )
        nodes, weights = _gauss_legendre(config.steps, inputs.device)
        points = (baseline + nodes[:, None, None] * (inputs - baseline)).requires_grad_(True)
        preference(points).sum().backward()
        model.zero_grad()
        return ((points.grad * weights[:, None, None]).sum(dim=0) * (inputs - baseline)).sum(dim=-1)

    with torch.enable_grad():
        positive, scores = top(attributed(), True), attributed()
    rows = variants(one, baseline, positive, top(scores, False))
    states: list[Tensor] = []
    kept: list[Tensor] = []
    last = model.get_decoder().layers[-1].register_forward_hook(lambda _, __, output: kept.append(output))
    with torch.no_grad():
        for row in rows:
            found = model(inputs_embeds=row[None].to(one.embeddings.dtype), output_hidden_states=True).hidden_states
            states.append(torch.stack([*(state[0, -1] for state in found[1:-1]), kept.pop()[0, -1]]))
    last.remove()
    return Outcome(scores.detach().cpu(), torch.stack(states).float().cpu())


def _gauss_legendre(steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(steps)
    made = [torch.tensor(each, dtype=torch.float32, device=device) for each in ((nodes + 1) / 2, weights / 2)]
    return made[0], made[1]


def sides(
    arguments: argparse.Namespace, model: transformers.PreTrainedModel, response: int
) -> dict[str, Callable[[], Outcome]]:
    """Both ways on the same example."""
    loaded = LoadedModel(lm=None, model=model, tokenizer=None)  # pyright: ignore
    one = example(model, arguments.prompt, (response, response), 0)
    config = AttributionConfig(
        steps=arguments.steps, max_steps=arguments.steps, internal_batch_size=arguments.steps, tolerance=1e3
    )
    return {
        "backward": lambda: obvious(loaded, one, config, "backward"),
        "captum": lambda: obvious(loaded, one, config, "captum"),
        "ours": lambda: ours(loaded, one, config),
    }


def peak_bytes(side: str, vocabulary: int, response: int) -> int:
    """Peak resident memory that one example adds, in a process of its own."""
    words = [*sys.argv[1:], "--alone", side, "--alone-vocabulary", str(vocabulary), "--response", str(response)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.build", *words], check=True, capture_output=True, text=True
    )
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


def _alone(arguments: argparse.Namespace) -> None:
    model = _model(arguments, arguments.alone_vocabulary)
    work = sides(arguments, model, arguments.response[0])[arguments.alone]
    process = psutil.Process()
    before, most, done = process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, process.memory_info().rss)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    status = Path("/proc/self/status")  # the kernel's own mark; getrusage's would count the parent before exec
    if status.is_file():
        mark = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        most = max(most, int(mark.split()[1]) * 1024)
    print(json.dumps({"bytes": most - before}))


def _model(arguments: argparse.Namespace, vocabulary: int) -> transformers.PreTrainedModel:
    return common.llama(
        arguments.layers, arguments.width, vocabulary, 2048, device=arguments.device, dtype=arguments.dtype
    )


def compare(theirs: Outcome, mine: Outcome, dtype: str) -> tuple[float, float]:
    """Largest relative difference of scores and of states; stops the benchmark where they are not the same."""
    scores = float((theirs.scores - mine.scores).abs().max() / theirs.scores.abs().max())
    states = float((theirs.states - mine.states).abs().max() / theirs.states.abs().max())
    if dtype == "float32" and not (scores < 1e-3 and states < 1e-3):
        raise SystemExit(f"build: not exact, scores off by {scores:.1e}, states by {states:.1e} of their largest")
    return scores, states


def measured(
    arguments: argparse.Namespace, model: transformers.PreTrainedModel, vocabulary: int, response: int
) -> list[dict[str, Any]]:
    """Rows of one vocabulary and one length of the responses."""
    both = sides(arguments, model, response)
    rate = peak.matmul_rate(arguments.device, arguments.dtype)
    both["ours"]()  # warm up
    times = common.interleaved(both, arguments.repeats, arguments.device)
    rate = max(rate, peak.matmul_rate(arguments.device, arguments.dtype))
    work = peak.operations(both["ours"])
    peaks = {name: peak_bytes(name, vocabulary, response) / 2**20 for name in both if name in arguments.memory}
    mine = times["ours"]
    rows: list[dict[str, Any]] = []
    for name in ("backward", "captum"):
        scores, states = compare(times[name].result, mine.result, arguments.dtype)
        rows.append(
            {
                "vocabulary": vocabulary,
                "response tokens": response,
                "obvious way": name,
                "obvious s": times[name].median,
                "grains_eval s": mine.median,
                "ratio": times[name].median / mine.median,
                "share of matmul peak": work / mine.median / rate,
                "matmul peak GFLOP/s": rate / 1e9,
                "obvious MiB": peaks.get(name, "not measured"),
                "grains_eval MiB": peaks.get("ours", "not measured"),
                "scores differ by": scores,
                "states differ by": states,
            }
        )
    return rows


def main() -> None:
    """Run both vocabularies."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabularies", type=int, nargs="*", default=[32_000, 128_000])
    parser.add_argument("--prompt", type=int, default=60, help="tokens")
    parser.add_argument("--response", type=int, nargs="*", default=[4, 12], help="tokens of each of the two")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--memory", nargs="*", default=["backward", "captum", "ours"], help="sides whose peak is measured"
    )
    parser.add_argument("--alone", choices=["backward", "captum", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--alone-vocabulary", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.layers, arguments.width, arguments.vocabularies = 2, 64, [512]
        arguments.prompt, arguments.response, arguments.steps, arguments.repeats = 12, [4], 5, 1
    common.start(arguments)
    if arguments.alone:
        _alone(arguments)
        return
    rows: list[dict[str, Any]] = []
    for vocabulary in arguments.vocabularies:
        model = _model(arguments, vocabulary)
        for response in arguments.response:
            rows += measured(arguments, model, vocabulary, response)
    common.report("build", rows, arguments)


if __name__ == "__main__":
    main()
