"""What steering adds to a forward pass and to a decoded token: our hooks against lm-eval's `steered`.

    python -m benchmarks.overhead --output benchmarks/results/overhead.json

The same directions at the same layers on both sides. `add` is the operation that both have; `add_renormalised` is this
project's default. The three sides take turns in short rounds; an overhead is the median over the rounds of a side's
time against the unsteered one's in the same round, with its 95 % interval.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from lm_eval.models.hf_steered import SteeredModel, steer
from torch import nn

from benchmarks import common
from grains_eval.steering import applied


def forward(model, ids, hooks=nullcontext) -> torch.Tensor:
    """One pass over `[B, T]` tokens."""
    with torch.no_grad(), hooks():
        return model(ids, use_cache=False).logits


def decode(model, ids, tokens, hooks=nullcontext) -> torch.Tensor:
    """Greedy decoding."""
    with torch.no_grad(), hooks():
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )


def hook_cost(model, hooks, layer, device) -> float:
    """Microseconds that the hooks add to a call of one layer, on one token: of a layer that does nothing else."""
    block, hidden = nn.Identity().to(device), torch.randn(1, 1, model.config.hidden_size, device=device)
    with hooks():
        block._forward_hooks = model.model.layers[layer]._forward_hooks.copy()

    def calls(module) -> None:
        with torch.no_grad():
            for _ in range(2000):
                module(hidden)

    sides = {"steered": partial(calls, block), "plain": partial(calls, nn.Identity().to(device))}
    times = common.interleaved(sides, 10, device)
    return 1e6 * (min(times["steered"].seconds) - min(times["plain"].seconds)) / 2000


def main() -> None:
    """Time a forward pass and decoding, steered at one layer and at all."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--tokens", type=int, default=32, help="of a forward pass")
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.set_defaults(repeats=151)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.layers, arguments.width, arguments.vocabulary, arguments.repeats = 4, 64, 512, 6
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
            hooks = {
                "none": nullcontext,
                "ours": partial(applied, model, steering),
                "theirs": partial(steer, model, theirs),
            }
            costs = {name: hook_cost(model, hook, layers[0], arguments.device) for name, hook in hooks.items()}
            works = {
                "forward pass": partial(forward, model, ids),
                "decoded token": partial(decode, model, ids[:, :8], arguments.new_tokens),
            }
            for what, work in works.items():
                sides = {name: partial(work, hooks=hook) for name, hook in hooks.items()}
                common.interleaved(sides, 1, arguments.device)  # warm up
                times = common.interleaved(sides, arguments.repeats, arguments.device)
                if operator == "add":
                    close = torch.allclose(
                        times["ours"].result.float(), times["theirs"].result.float(), atol=1e-4, rtol=1e-4
                    )
                    if arguments.dtype == "float32" and not close:
                        raise SystemExit(f"overhead, {what}: not the numbers of lm-eval's steered")
                count = arguments.new_tokens if what == "decoded token" else 1
                rows.append(
                    {
                        "per": what,
                        "layers steered": where,
                        "operator": operator,
                        "unsteered ms": 1000 * times["none"].median / count,
                        "overhead % [95 %]": _overhead(times["ours"], times["none"]),
                        "lm-eval steered % [95 %]": _overhead(times["theirs"], times["none"]),
                        "hook µs": costs["ours"],
                        "lm-eval hook µs": costs["theirs"],
                        "ours against theirs % [95 %]": _overhead(times["ours"], times["theirs"]),
                    }
                )
    common.report("overhead", rows, arguments)


def _overhead(left: common.Timing, right: common.Timing) -> str:
    ratio, interval = left.over(right)
    shown, low, high = (f"{100 * (each - 1):+.1f}" for each in (ratio, *interval))
    return f"{shown} [{low}, {high}]"


if __name__ == "__main__":
    main()
