"""What an 8B model takes on one GPU and on four: memory and time of a build and of an evaluation, computed.

    python -m benchmarks.many_gpus --output benchmarks/results/many_gpus.json

No weights are read: this is `grains-eval build --estimate` on the configuration of Llama 3.1 8B for a recipe of 50
examples with 20 nodes each, prompts of 128 tokens and responses of 16. Times are operations over `--share` of the
rate in the GPU's data sheet; they were not measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import transformers

from benchmarks import common
from grains_eval.recipes import parse_recipe
from grains_eval.study.estimate import Devices, Estimate, estimate

# TFLOP/s by the maker's data sheet
A10, H100 = {"bfloat16": 125.0, "float32": 31.2}, {"bfloat16": 989.0, "float32": 67.0}
GPUS = (("A10, 24 GB", Devices(1, 24), A10), ("H100, 80 GB", Devices(1, 80), H100), ("4 x A10", Devices(4, 24), A10))
_ITEMS, _CONTEXT = 1000, 256


def shape() -> transformers.PretrainedConfig:
    """The sizes of Llama 3.1 8B."""
    return transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=131072,
        dtype="bfloat16",
    )


def row(found: Estimate, dtype: str, gpu: tuple[str, Devices, Mapping[str, float]], share: float) -> Mapping[str, Any]:
    """One precision on one kind of machine."""
    name, devices, peak = gpu
    fit, rate = found.fit(devices), peak[dtype] * 1e12 * share
    least, most = found.operations()
    # layers on several devices run one after another; copies run at the same time
    copies = 1 if fit.split else devices.count
    attributed = sum(
        run.operations(found.cost) for each in found.phases if each.name == "attribution" for run in each.least
    )
    evaluated = _ITEMS * _CONTEXT * found.cost.token

    def minutes(operations: float) -> str:
        return f"{operations / rate / 60:.2g}" if fit.rows else "–"

    return {
        "GPUs": name,
        "dtype": dtype,
        "weights GiB": round(found.weights / 2**30, 1),
        "one row GiB": round(found.peak.row / 2**30, 2),
        "fits": f"yes, {fit.rows} rows a pass" if fit.rows else "no",
        "how": fit.advice,
        "build, minutes": minutes(attributed / copies + least - attributed),
        "with choosing a setting, minutes": minutes(attributed / copies + most - attributed),
        f"{_ITEMS:,} evaluated prompts of {_CONTEXT} tokens, minutes": minutes(evaluated / copies),
        "prompts at a time": int(
            (devices.count * devices.gigabytes * 2**30 * 0.94 - copies * found.weights) // (_CONTEXT * found.cache)
        )
        if fit.rows
        else "–",
    }


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.4, help="of the data sheet's rate that a GPU sustains")
    arguments = parser.parse_args()
    common.start(arguments)
    raw = {"name": "table", "data": {"path": "none"}, "attribution": {"max_steps": 20}}
    rows: list[Mapping[str, Any]] = []
    for dtype in ("bfloat16", "float32"):
        with tempfile.TemporaryDirectory() as place:
            shape().save_pretrained(place)
            found = estimate(parse_recipe(raw), {"pretrained": place, "dtype": dtype}, lengths=(128, 16))
        rows += [row(found, dtype, gpu, arguments.share) for gpu in GPUS]
    common.report("many_gpus", rows, arguments)


if __name__ == "__main__":
    main()
