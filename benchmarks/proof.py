"""What it costs that shared contexts prove themselves: share of CPU time in a run of 500 requests.

    python -m benchmarks.proof --output benchmarks/results/proof.json

The proof scores some of the run's own requests in plain passes; its time is that of those passes and of choosing them,
measured inside the run itself. Four choices of a few tokens each, contexts of mixed lengths as tasks have them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from benchmarks import common
from benchmarks.evaluate import Fixed
from grains_eval.harness.prefix_sharing import loglikelihood as shared_context
from grains_eval.harness.prefix_sharing import proof as sharing
from grains_eval.harness.prefix_sharing.loglikelihood import Memo

# name, tokens of the shortest and the longest context, how many of them open every context, configurations
RUNS = [
    ("short", 30, 80, 0, 1),
    ("long", 100, 300, 0, 1),
    ("few-shot", 230, 300, 200, 1),
    ("long, 5 settings", 100, 300, 0, 5),
]


def requests(count: int, shortest: int, longest: int, preamble: int, vocabulary: int) -> list[Any]:
    """Multiple choice with contexts whose lengths are spread evenly."""
    draw = random.Random(0)
    opening = [draw.randrange(4, vocabulary) for _ in range(preamble)]
    made: list[Any] = []
    for question in range(count // 4):
        size = draw.randrange(shortest, longest + 1) - preamble
        context = [*opening, *(draw.randrange(4, vocabulary) for _ in range(size))]
        for choice in range(4):
            answer = [draw.randrange(4, vocabulary) for _ in range(draw.randrange(2, 9))]
            made.append(((str(question), str(choice)), context, answer))
    return made


class Watch:
    """CPU seconds spent in some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*arguments: Any, **keywords: Any) -> Any:
            before = time.process_time()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds += time.process_time() - before

        return timed


def main() -> None:
    """Run every kind of task once per repeat."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=500)
    arguments = parser.parse_args()
    common.start(arguments)
    layers, width, vocabulary = (2, 64, 512) if arguments.smoke else (8, 256, 32_000)
    watch = Watch()
    sharing.Proof.check = watch.over(sharing.Proof.check)
    shared_context._probes = watch.over(shared_context._probes)
    rows = []
    for name, shortest, longest, preamble, settings in RUNS[:1] if arguments.smoke else RUNS:
        model = common.llama(layers, width, vocabulary, 2048, device=arguments.device, dtype=arguments.dtype)
        lm = Fixed(
            pretrained=model, tokenizer=common.tokenizer(), batch_size=4, device=arguments.device, max_length=2048
        )
        asked = requests(arguments.requests, shortest, longest, preamble, vocabulary)
        lm.memo = Memo([(), *((common.steering(model, [layers // 2], float(s)),) for s in range(1, settings))])
        whole, proof = [], []
        for _ in range(arguments.repeats):
            lm.memo.scores.clear()
            watch.seconds = 0.0
            took, _ = common.seconds(
                lambda lm=lm, asked=asked: lm._loglikelihood_tokens(asked, disable_tqdm=True), "cpu"
            )
            whole.append(took)
            proof.append(watch.seconds)
        known = sharing.standing(model)
        rows.append(
            {
                "run": name,
                "context tokens": f"{shortest} to {longest}",
                "of them shared": preamble,
                "requests": len(asked),
                "settings": settings,
                "scores computed both ways": known.proved // arguments.repeats,
                "furthest apart (nats)": known.furthest,
                "run s": sorted(whole)[len(whole) // 2],
                "proof %": 100 * sum(proof) / sum(whole),
            }
        )
        if known.obstacle is not None:
            raise SystemExit(f"{name}: {known.obstacle}")
    common.report("proof", rows, arguments)


if __name__ == "__main__":
    main()
