"""What steering adds to a forward pass and to a decoded token: our hooks against lm-eval's `steered`.

    python -m benchmarks.overhead --output benchmarks/results/overhead.json

The same directions at the same blocks on both sides. `add` is the operation that both have; `add_renormalised` is this
project's default. The three sides take turns, and times are those of the fastest round.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from lm_eval.models.hf_steered import SteeredModel, steer

from benchmarks import common
from grains_eval.steering import applied

PASSES = 4


def forward(model, ids, around=nullcontext, each=nullcontext) -> torch.Tensor:
    """`PASSES` passes over `[B, T]` tokens, with hooks `around` them all or put on for `each`."""
    logits = ids
    with torch.no_grad(), around():
        for _ in range(PASSES):
            with each():
                logits = model(ids, use_cache=False).logits
    return logits


def decode(model, ids, tokens, around=nullcontext, each=nullcontext) -> torch.Tensor:
    """Greedy decoding; either way the hooks stay on for the whole of it."""
    with torch.no_grad(), around(), each():
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )


def main() -> None:
    """Time a forward pass and decoding, steered at one block and at all."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--tokens", type=int, default=128, help="of a forward pass")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.set_defaults(repeats=15)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.layers, arguments.width, arguments.vocabulary, arguments.repeats = 4, 64, 512, 2
        arguments.tokens, arguments.new_tokens = 16, 4
    common.start(arguments)
    model = common.llama(
        arguments.layers,
        arguments.width,
        arguments.vocabulary,
        2048,
        device=arguments.device,
        dtype=arguments.dtype,
    )
    ids = torch.randint(4, arguments.vocabulary, (1, arguments.tokens), device=arguments.device)
    rows = []
    for where, layers in {"one": [arguments.layers // 2], "all": list(range(arguments.layers))}.items():
        for operator in ("add", "add_renormalised"):
            steering = common.steering(model, layers, 0.5, operator)
            theirs = {
                f"layers.{layer}": partial(
                    SteeredModel.add, vector=delta.to(model.device, model.dtype), head_index=None
                )
                for layer, delta in steering.deltas.items()
            }
            # as each is used: ours hooks the model once an evaluation, lm-eval's once a call
            hooks = {
                "none": {},
                "ours": {"around": partial(applied, model, steering)},
                "theirs": {"each": partial(steer, model, theirs)},
            }
            works = {
                "forward pass": partial(forward, model, ids),
                "decoded token": partial(decode, model, ids[:, :8], arguments.new_tokens),
            }
            for what, work in works.items():
                sides = {name: partial(work, **hook) for name, hook in hooks.items()}
                common.interleaved(sides, 1, arguments.device)  # warm up
                times = common.interleaved(sides, arguments.repeats, arguments.device)
                if operator == "add":
                    close = torch.allclose(
                        times["ours"].result.float(), times["theirs"].result.float(), atol=1e-4, rtol=1e-4
                    )
                    if arguments.dtype == "float32" and not close:
                        raise SystemExit(f"overhead, {what}: not the numbers of lm-eval's steered")
                count = arguments.new_tokens if what == "decoded token" else PASSES
                rows.append(
                    {
                        "per": what,
                        "blocks steered": where,
                        "operator": operator,
                        "unsteered ms": 1000 * min(times["none"].seconds) / count,
                        "steered ms": 1000 * min(times["ours"].seconds) / count,
                        "overhead %": 100 * (_ratio(times["ours"], times["none"]) - 1),
                        "lm-eval steered %": 100 * (_ratio(times["theirs"], times["none"]) - 1),
                    }
                )
    common.report("overhead", rows, arguments)


def _ratio(left: common.Timing, right: common.Timing) -> float:
    """Of the fastest rounds: an interruption only ever adds time, and here a few per cent are looked for."""
    return min(left.seconds) / min(right.seconds)


if __name__ == "__main__":
    main()
