"""Baseline and many strengths: one shared pass of `grains_hf` against `hf` once per strength under hooks.

    python -m benchmarks.sweep --output benchmarks/results/sweep.json

Both sides score the same requests under the same configurations. `first` steers layer 0, `last quarter` the
first layer of the last quarter, and so on: the later the layer, the more of the model is shared. Sharing is proved in
two plain passes, unsteered and at one strength, however many requests there are; the ratio without them stands beside.
"""

from __future__ import annotations

from lm_eval.models.huggingface import HFLM

from benchmarks import common
from grains_eval.harness.prefix_sharing import proof as sharing
from grains_eval.harness.prefix_sharing.loglikelihood import ScoringOptions, score, shared_scores
from grains_eval.steering import applied


def main() -> None:
    """Run every place of steering."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--context", type=int, default=200)
    parser.add_argument("--questions", type=int, default=1)
    parser.add_argument("--choices", type=int, default=4)
    parser.add_argument("--answer", type=int, default=8, help="tokens of an answer")
    parser.add_argument("--strengths", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--places", nargs="*", default=["first", "middle", "last quarter", "last"])
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.layers, arguments.width, arguments.vocabulary = 4, 64, 512
        arguments.context, arguments.strengths = 24, 3
    common.start(arguments)
    watch = common.watched_proof()
    model = common.llama(
        arguments.layers,
        arguments.width,
        arguments.vocabulary,
        2048,
        device=arguments.device,
        dtype=arguments.dtype,
    )
    lm = HFLM(
        pretrained=model,
        tokenizer=common.tokenizer(),
        batch_size=arguments.batch_size,
        device=arguments.device,
        backend="causal",
        max_length=2048,
    )
    requests = common.multiple_choice(
        arguments.questions, arguments.context, arguments.choices, arguments.answer, arguments.vocabulary
    )
    pairs = [(context, answer) for _, context, answer in requests]
    layers = {
        "first": 0,
        "middle": arguments.layers // 2,
        "last quarter": arguments.layers * 3 // 4,
        "last": arguments.layers - 1,
    }
    rows = []
    for place in arguments.places:
        steered = [common.steering(model, [layers[place]], 0.5 * (index + 1)) for index in range(arguments.strengths)]

        def one_by_one(steered=steered):
            found = [lm._loglikelihood_tokens(requests, disable_tqdm=True)]
            for each in steered:
                with applied(model, each):
                    found.append(lm._loglikelihood_tokens(requests, disable_tqdm=True))
            return found

        def shared(steered=steered, place=place):
            configurations = [(), *((each,) for each in steered)]
            options = ScoringOptions(arguments.batch_size)
            found = shared_scores(model, pairs, configurations, max_length=2048, options=options)
            if found is None:
                raise SystemExit(f"sweep, {place}: not shared, {sharing.standing(model).obstacle}")
            return found

        score(model, pairs[:2], [()], max_length=8)  # warm up
        sides = {"theirs": one_by_one, "ours": shared}
        watch.clear()
        times = common.interleaved(sides, arguments.repeats, arguments.device)
        proof = watch.seconds / arguments.repeats
        results = list(zip(times["theirs"].result, times["ours"].result, strict=True))
        difference = max(common.furthest(theirs, ours) for theirs, ours in results)
        same = all(common.same_choices(theirs, ours, arguments.choices) for theirs, ours in results)
        common.check_exact(difference, same, arguments.dtype, f"sweep, {place}")
        rows.append(
            {
                "steered from": place,
                "layer": layers[place],
                "configurations": 1 + arguments.strengths,
                "vocabulary": arguments.vocabulary,
                "context tokens": arguments.context,
                "hf, one by one s": times["theirs"].median,
                "shared s": times["ours"].median,
                "of it proof s": proof,
                "ratio": times["theirs"].median / times["ours"].median,
                "without proof": times["theirs"].median / (times["ours"].median - proof),
                "largest difference (nats)": difference,
                "same choices": same,
            }
        )
    common.report("sweep", rows, arguments)


if __name__ == "__main__":
    main()
