"""Do bfloat16 attributions select the tokens that float32 ones select?

    python -m benchmarks.half --output benchmarks/results/half.json

Overlap is the Jaccard index of the selected positions, averaged over examples and both signs: on the bundled text
model with its own examples, and on a Llama of random weights. A build runs in the dtype that the model is loaded in.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from benchmarks import build, common
from grains_eval.attribution import attribute
from grains_eval.demo import model_path
from grains_eval.examples import load_examples
from grains_eval.models import LoadedModel, encode, load
from grains_eval.recipes import AttributionConfig, load_recipe

RECIPE = Path(__file__).resolve().parent.parent / "tasks" / "demo" / "text_split" / "recipe.yaml"


def overlap(left: torch.Tensor, right: torch.Tensor, k: int) -> float:
    """Mean Jaccard index of the `k` most positive and of the `k` most negative positions."""
    found: list[float] = []
    for largest in (True, False):
        one, other = (set(each.topk(min(k, len(each)), largest=largest).indices.tolist()) for each in (left, right))
        found.append(len(one & other) / len(one | other))
    return statistics.mean(found)


def bundled(dtype: str, count: int, steps: int) -> list[torch.Tensor]:
    """Scores on the bundled text model."""
    loaded = load({"pretrained": str(model_path("text_split")), "dtype": dtype}, device="cpu")
    recipe = load_recipe(RECIPE, [f"data.examples={count}"])
    config = AttributionConfig(steps=steps, max_steps=steps, tolerance=1e3)
    examples = load_examples(recipe.data, loaded).build
    return [attribute(loaded, encode(loaded, one), config).scores for one in examples]


def drawn(dtype: str, count: int, steps: int, arguments) -> list[torch.Tensor]:
    """Scores on a Llama of random weights."""
    torch.manual_seed(0)
    model = common.llama(arguments.layers, arguments.width, 1024, 512).to(getattr(torch, dtype))
    config = AttributionConfig(steps=steps, max_steps=steps, tolerance=1e3)
    loaded = LoadedModel(lm=None, model=model, tokenizer=None)  # pyright: ignore
    return [attribute(loaded, build.example(model, 60, (12, 12), seed), config).scores for seed in range(count)]


def main() -> None:
    """Compare the two dtypes."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.examples, arguments.steps, arguments.layers, arguments.width = 2, 4, 2, 64
    common.start(arguments)
    rows = []
    for name, run in (
        ("bundled text model", bundled),
        ("random Llama", lambda *given: drawn(*given, arguments)),
    ):
        full, half = (run(dtype, arguments.examples, arguments.steps) for dtype in ("float32", "bfloat16"))
        for k in (1, 2, 5, 10):
            same = [overlap(one, other, k) for one, other in zip(full, half, strict=True)]
            rows.append(
                {
                    "model": name,
                    "examples": len(same),
                    "top k": k,
                    "mean overlap": statistics.mean(same),
                    "least": min(same),
                }
            )
    common.report("half", rows, arguments)


if __name__ == "__main__":
    main()
