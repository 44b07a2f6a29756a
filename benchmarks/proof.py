"""What it costs that shared contexts prove themselves: share of CPU time in a run of 500 requests.

    python -m benchmarks.proof --output benchmarks/results/proof.json

The proof scores some of the run's own requests in plain passes; its time is that of those passes and of choosing them,
measured inside the run itself. `proof % of tokens` counts what the decoder is fed instead, padding included: it does
not depend on the machine, and where layers outweigh the vocabulary, as in large models, time follows it (of several
settings it counts every one whole, although the layers below the steered one run once). `one plain row %` is the least
that a comparison can cost, the shortest request in a pass of its own. Four choices of a few tokens each, contexts of
mixed lengths as tasks have them.
"""

from __future__ import annotations

import random
import statistics
from typing import Any

import transformers

from benchmarks import common
from benchmarks.evaluate import Fixed
from grains_eval.harness.prefix_sharing import proof as sharing
from grains_eval.harness.prefix_sharing.loglikelihood import Memo

# name, tokens of the shortest and the longest context, how many of them open every context, configurations, attention
# window (0: all tokens)
RUNS = [
    ("short", 30, 80, 0, 1, 0),
    ("long", 100, 300, 0, 1, 0),
    ("few-shot", 230, 300, 200, 1, 0),
    ("long, 5 settings", 100, 300, 0, 5, 0),
    ("long, crossing a window of 200", 100, 300, 0, 1, 200),
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


def made(arguments: Any, window: int) -> transformers.PreTrainedModel:
    """A Llama of random weights, or a Mistral whose attention sees `window` tokens."""
    layers, width, vocabulary = SMOKE if arguments.smoke else FULL
    model = common.llama(layers, width, vocabulary, 2048, device=arguments.device, dtype=arguments.dtype)
    if not window:
        return model
    settings = {**model.config.to_dict(), "model_type": "mistral", "architectures": None, "sliding_window": window}
    other = transformers.MistralForCausalLM(transformers.MistralConfig.from_dict(settings))
    other.load_state_dict(model.state_dict())
    return other.to(model.device, model.dtype).eval()


# layers, width, vocabulary
SMOKE, FULL = (2, 64, 512), (8, 256, 32_000)


def main() -> None:
    """Run every kind of task once per repeat."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=500)
    arguments = parser.parse_args()
    common.start(arguments)
    watch = common.watched_proof()
    rows = []
    for name, shortest, longest, preamble, settings, window in (RUNS[0], RUNS[-1]) if arguments.smoke else RUNS:
        model = made(arguments, window)
        depth, vocabulary = model.config.num_hidden_layers, model.config.vocab_size
        model.get_decoder().register_forward_pre_hook(watch.count, with_kwargs=True)
        lm = Fixed(
            pretrained=model, tokenizer=common.tokenizer(), batch_size=4, device=arguments.device, max_length=2048
        )
        asked = requests(arguments.requests, shortest, longest, preamble, vocabulary)
        lm.memo = Memo([(), *((common.steering(model, [depth // 2], float(s)),) for s in range(1, settings))])
        whole, proof = [], []
        for _ in range(arguments.repeats):
            lm.memo.scores.clear()
            watch.clear()
            took, _ = common.seconds(
                lambda lm=lm, asked=asked: lm._loglikelihood_tokens(asked, disable_tqdm=True), "cpu"
            )
            whole.append(took)
            proof.append(100 * watch.seconds / took)
        known = sharing.standing(model)
        fed, least = watch.inside + watch.outside, min(len(context) + len(answer) for _, context, answer in asked)
        rows.append(
            {
                "run": name,
                "context tokens": f"{shortest} to {longest}",
                "of them shared": preamble,
                "requests": len(asked),
                "settings": settings,
                "scores computed both ways": known.proved // arguments.repeats,
                "furthest apart (nats)": known.furthest,
                "run s": statistics.median(whole),
                "proof % of time": statistics.median(proof),
                "proof % of tokens": 100 * watch.inside / fed,
                "one plain row %": 100 * least / fed,
            }
        )
        if known.obstacle is not None:
            raise SystemExit(f"{name}: {known.obstacle}")
    common.report("proof", rows, arguments)


if __name__ == "__main__":
    main()
