"""What one virtual token that every query sees adds to a decoded token and to a forward pass.

    python -m benchmarks.tokens --output benchmarks/results/tokens.json

Both sides take turns in short rounds; an overhead is the median over the rounds of the shown side's time against the
plain one's in the same round, with its 95 % interval. The token is seen by every layer, on the attention path that the
row names, with prompts of two lengths.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch

from benchmarks import common
from benchmarks.overhead import forward
from grains_eval.models.forward import fork
from grains_eval.virtual_tokens import ResolvedTokens, layout, shown


def random_token(model, bias: float) -> ResolvedTokens:
    """Random keys and values for every layer."""
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    generator = torch.Generator().manual_seed(0)
    keys, values = (
        {
            layer: torch.randn(1, config.num_key_value_heads, width, generator=generator)
            for layer in range(config.num_hidden_layers)
        }
        for _ in range(2)
    )
    return ResolvedTokens(keys, values, (7,), (bias,))


def main() -> None:
    """Time decoding and a forward pass with and without a virtual token."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--prompts", type=int, nargs="+", default=[32, 512])
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.set_defaults(repeats=31)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.layers, arguments.width, arguments.vocabulary, arguments.repeats = 3, 64, 512, 6
        arguments.prompts, arguments.new_tokens = [16], 3
    common.start(arguments)
    model = common.llama(
        arguments.layers, arguments.width, arguments.vocabulary, 2048, device=arguments.device, dtype=arguments.dtype
    )
    rows = []
    for path in ("sdpa", "eager"):
        model.set_attn_implementation(path)
        layout(model)  # stops where a token would not be shown exactly
        for strength in (0.0, 1.0):
            hooks = partial(shown, model, [[random_token(model, strength)]])
            for length in arguments.prompts:
                ids = torch.randint(4, arguments.vocabulary, (1, length), device=arguments.device)
                works = {
                    "decoded token": partial(_decode, model, *_prefilled(model, ids), arguments.new_tokens),
                    "forward pass": partial(forward, model, ids),
                }
                for what, work in works.items():
                    sides = {"plain": work, "shown": partial(work, hooks=hooks)}
                    common.interleaved(sides, 1, arguments.device)  # warm up
                    times = common.interleaved(sides, arguments.repeats, arguments.device)
                    if what == "forward pass" and torch.allclose(times["plain"].result, times["shown"].result):
                        raise SystemExit("tokens: the virtual token changes nothing")
                    ratio, interval = times["shown"].over(times["plain"])
                    middle, low, high = (f"{100 * (each - 1):+.1f}" for each in (ratio, *interval))
                    count = arguments.new_tokens if what == "decoded token" else 1
                    rows.append(
                        {
                            "per": what,
                            "attention": path,
                            "prompt tokens": length,
                            "strength": strength,
                            "plain ms": 1000 * times["plain"].median / count,
                            "overhead % [95 %]": f"{middle} [{low}, {high}]",
                        }
                    )
    common.report("tokens", rows, arguments)


def _prefilled(model, ids):
    """The cache of a prompt and the token after it."""
    with torch.no_grad():
        output = model(ids, use_cache=True)
    return output.past_key_values, output.logits[:, -1:].argmax(-1)


def _decode(model, cache, token, tokens, hooks=nullcontext):
    """Greedy steps after a cached prompt; showing begins and ends once, as it does around `generate`."""
    own = fork(cache)
    with torch.no_grad(), hooks():
        for _ in range(tokens):
            token = model(token, past_key_values=own, use_cache=True).logits[:, -1:].argmax(-1)
    return token


if __name__ == "__main__":
    main()
