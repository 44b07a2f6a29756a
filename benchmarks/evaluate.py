"""One evaluation of multiple choice: `grains_hf` against lm-eval's `hf` and, steered, against its `steered`.

    python -m benchmarks.evaluate --output benchmarks/results/evaluate.json

Every side is the real lm-eval class, given token ids through `_loglikelihood_tokens`. Ours proves on some of the
requests that sharing is right; that is one plain pass of them, however many requests there are, and shows most in runs
as short as these (`benchmarks.proof` is about longer ones), so the ratio without it stands beside.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from lm_eval.models.hf_steered import SteeredModel
from lm_eval.models.huggingface import HFLM

from benchmarks import common
from grains_eval.harness.prefix_sharing.loglikelihood import SharedContextMixin
from grains_eval.steering import ResolvedSteering

# vocabulary, tokens of a context, how many of them open every context (a few-shot preamble), questions
SIZES = [(32_000, 50, 0, 4), (32_000, 200, 0, 2), (128_000, 1000, 0, 1), (32_000, 230, 200, 6)]


class Fixed(SharedContextMixin, HFLM):
    """`grains_hf` with a steering given in memory."""

    configuration: tuple[ResolvedSteering, ...] = ()

    @property
    def steering_configuration(self):
        """What is applied."""
        return self.configuration


def built_in(model, steering: ResolvedSteering, **settings) -> SteeredModel:
    """lm-eval's `steered` with the same directions, which it reads from a file."""
    hooks = {
        f"layers.{layer}": {"steering_vector": delta, "steering_coefficient": 1.0, "action": "add"}
        for layer, delta in steering.deltas.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.save(hooks, path := Path(folder) / "steer.pt")
        return SteeredModel(pretrained=model, steer_path=str(path), **settings)


def main() -> None:
    """Run every size, unsteered and steered."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--choices", type=int, default=4)
    parser.add_argument("--answer", type=int, default=8, help="tokens of an answer")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(range(len(SIZES))), help=f"which of {SIZES}")
    parser.add_argument("--questions", type=int, help="instead of the size's own number")
    arguments = parser.parse_args()
    common.start(arguments)
    watch = common.watched_proof()
    sizes = [(512, 24, 0, 3), (512, 60, 50, 6)] if arguments.smoke else [SIZES[index] for index in arguments.sizes]
    layers, width = (4, 64) if arguments.smoke else (arguments.layers, arguments.width)
    rows = []
    for vocabulary, context, preamble, questions in sizes:
        model = common.llama(layers, width, vocabulary, 2048, device=arguments.device, dtype=arguments.dtype)
        requests = common.multiple_choice(
            arguments.questions or questions,
            context,
            arguments.choices,
            arguments.answer,
            vocabulary,
            preamble,
        )
        settings = {
            "tokenizer": common.tokenizer(),
            "batch_size": arguments.batch_size,
            "device": arguments.device,
            "backend": "causal",
            "max_length": 2048,
        }
        ours = Fixed(pretrained=model, **settings)
        steering = common.steering(model, [layers // 2], 2.0, "add")
        for steered in (False, True):
            theirs = built_in(model, steering, **settings) if steered else HFLM(pretrained=model, **settings)
            ours.configuration = (steering,) if steered else ()
            for lm in (theirs, ours):
                lm._loglikelihood_tokens(common.multiple_choice(1, 8, 2, 2, vocabulary), disable_tqdm=True)
            sides = {
                "theirs": partial(theirs._loglikelihood_tokens, requests, disable_tqdm=True),
                "ours": partial(ours._loglikelihood_tokens, requests, disable_tqdm=True),
            }
            watch.clear()
            times = common.interleaved(sides, arguments.repeats, arguments.device)
            proof = watch.seconds / arguments.repeats
            difference = common.furthest(times["theirs"].result, times["ours"].result)
            same = common.same_choices(times["theirs"].result, times["ours"].result, arguments.choices)
            common.check_exact(difference, same, arguments.dtype, f"evaluate, {context} tokens, steered {steered}")
            rows.append(
                {
                    "steered": steered,
                    "vocabulary": vocabulary,
                    "context tokens": context,
                    "of them shared": preamble,
                    "requests": len(requests),
                    "baseline": "steered" if steered else "hf",
                    "baseline s": times["theirs"].median,
                    "grains_hf s": times["ours"].median,
                    "of it proof s": proof,
                    "ratio": times["theirs"].median / times["ours"].median,
                    "without proof": times["theirs"].median / (times["ours"].median - proof),
                    "largest difference (nats)": difference,
                    "same choices": same,
                }
            )
    common.report("evaluate", rows, arguments)


if __name__ == "__main__":
    main()
