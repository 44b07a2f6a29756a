"""Builds, evaluations, sweeps and overhead at true sizes: Llama-3.1-8B and LLaVA-1.6-7B shapes, random weights.

    python -m benchmarks.gpu --device cuda --dtype bfloat16 --output benchmarks/results/gpu.json
    python -m benchmarks.gpu --toy

Times are device events on a GPU and CPU seconds elsewhere. `--toy` shrinks everything, to see on a CPU that the
command runs and that its fast sides give the slow sides' answers; its times mean nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_eval.models.huggingface import HFLM

from benchmarks import build, common, images
from benchmarks.evaluate import Fixed
from benchmarks.peak import matmul_rate, operations
from grains_eval.harness.prefix_sharing.loglikelihood import ScoringOptions, score
from grains_eval.models import LoadedModel, encode
from grains_eval.recipes import AttributionConfig
from grains_eval.steering import applied
from grains_eval.types import PreferenceExample
from tests import tiny

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
LLAVA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32_064,
}
CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
TOY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": tiny.VOCABULARY,
}
TOY_CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def row(what: str, model: str, count: int, unit: str, seconds: float, **more: Any) -> dict[str, Any]:
    """One line of the table."""
    blank = {"share of matmul peak": "", "against": "", "ratio": "", "largest difference (nats)": ""}
    line = {"what": what, "model": model, "amount": count, "unit": unit, "s": seconds, "per second": count / seconds}
    return {**line, **blank, **more}


def llama(arguments: argparse.Namespace) -> transformers.PreTrainedModel:
    """Random weights of the text model's shape."""
    config = transformers.LlamaConfig(
        **(TOY if arguments.toy else LLAMA_8B), max_position_embeddings=4096, pad_token_id=0, initializer_range=0.02
    )
    return _random(transformers.LlamaForCausalLM, config, arguments)


def llava(arguments: argparse.Namespace, folder: Path) -> images.Steered:
    """The vision-language model's shape inside lm-eval's class, which is made with a toy and given the true weights."""
    side = 28 if arguments.toy else 336
    images.save_model(folder, 1, 64, 0, side)
    lm = images.Steered(
        pretrained=str(folder), dtype=arguments.dtype, device=arguments.device, batch_size=arguments.batch_size
    )
    small = lm.model.config
    text = {**(TOY if arguments.toy else LLAVA_7B), "pad_token_id": 0, "max_position_embeddings": 4096}
    vision = {**(TOY_CLIP if arguments.toy else CLIP_L), "image_size": side, "patch_size": 14}
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**text),
        image_token_index=small.image_token_id,
        image_grid_pinpoints=small.image_grid_pinpoints,
        image_seq_length=small.image_seq_length,
    )
    lm._model = _random(transformers.LlavaNextForConditionalGeneration, config, arguments)
    return lm


def _random(kind: Any, config: Any, arguments: argparse.Namespace) -> transformers.PreTrainedModel:
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, arguments.dtype))  # never twice the memory
    try:
        with torch.device(arguments.device):
            return kind(config).eval()
    finally:
        torch.set_default_dtype(before)


def built(loaded: LoadedModel, examples: list[Any], name: str, arguments: argparse.Namespace, peak: float) -> Any:
    """A whole build's attribution and contrast."""
    config = AttributionConfig(
        steps=arguments.steps, max_steps=arguments.steps, internal_batch_size=arguments.rows, tolerance=1e3
    )

    def work() -> None:
        for one in examples:
            build.ours(loaded, one, config)

    build.ours(loaded, examples[0], config)  # warm up
    seconds, _ = common.seconds(work, arguments.device)
    done = len(examples) * operations(lambda: build.ours(loaded, examples[0], config))
    return row("build", name, len(examples), "examples", seconds, **{"share of matmul peak": done / seconds / peak})


def evaluated(model: Any, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Throughput of multiple choice against `hf`, unsteered and under one vector; both sides in turn."""
    vocabulary = model.config.vocab_size
    settings = {
        "tokenizer": common.tokenizer(), "batch_size": arguments.batch_size, "device": arguments.device,
        "backend": "causal", "max_length": 2048,
    }  # fmt: skip
    theirs, ours = HFLM(pretrained=model, **settings), Fixed(pretrained=model, **settings)
    requests = common.multiple_choice(arguments.questions, arguments.context, 4, 8, vocabulary)
    steering = common.steering(model, [model.config.num_hidden_layers // 2], 2.0)
    rows: list[dict[str, Any]] = []
    for steered in (False, True):
        ours.configuration = (steering,) if steered else ()

        def hooked(steered=steered):
            if not steered:
                return theirs._loglikelihood_tokens(requests, disable_tqdm=True)
            with applied(model, steering):
                return theirs._loglikelihood_tokens(requests, disable_tqdm=True)

        sides = {"theirs": hooked, "ours": partial(ours._loglikelihood_tokens, requests, disable_tqdm=True)}
        common.interleaved(sides, 1, arguments.device)  # warm up
        times = common.interleaved(sides, arguments.repeats, arguments.device)
        difference = common.furthest(times["theirs"].result, times["ours"].result)
        same = common.same_choices(times["theirs"].result, times["ours"].result, 4)
        common.check_exact(difference, same, arguments.dtype, f"evaluate, steered {steered}")
        rows.append(
            row(
                f"evaluate, {'steered' if steered else 'unsteered'}", "llama", len(requests), "requests",
                times["ours"].median, against="hf", ratio=times["theirs"].median / times["ours"].median,
                **{"largest difference (nats)": difference},
            )
        )  # fmt: skip
    lines = [(context, answer) for _, context, answer in requests]
    swept = [(), *((common.steering(model, [model.config.num_hidden_layers * 3 // 4], 0.5 * n),) for n in range(1, 5))]

    def one_by_one():
        found = []
        for each in swept:
            with applied(model, each[0]) if each else torch.no_grad():
                found.append(theirs._loglikelihood_tokens(requests, disable_tqdm=True))
        return found

    sides = {
        "theirs": one_by_one,
        "ours": lambda: score(model, lines, swept, max_length=2048, options=ScoringOptions(arguments.batch_size)),
    }
    times = common.interleaved(sides, arguments.repeats, arguments.device)
    pairs = list(zip(times["theirs"].result, times["ours"].result, strict=True))
    difference = max(common.furthest(*pair) for pair in pairs)
    common.check_exact(difference, all(common.same_choices(*pair, 4) for pair in pairs), arguments.dtype, "sweep")
    rows.append(
        row(
            "sweep from the last quarter", "llama", len(swept), "configurations", times["ours"].median,
            against="hf, one by one", ratio=times["theirs"].median / times["ours"].median,
            **{"largest difference (nats)": difference},
        )
    )  # fmt: skip
    return rows


def overhead(model: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """A forward pass, steered at the middle layer, against the same one unsteered."""
    ids = torch.randint(4, model.config.vocab_size, (4, arguments.context), device=arguments.device)
    steering = common.steering(model, [model.config.num_hidden_layers // 2], 2.0)

    @torch.no_grad()
    def forward():
        return model(ids, use_cache=False).logits

    def steered():
        with applied(model, steering):
            return forward()

    forward()
    times = common.interleaved({"plain": forward, "steered": steered}, 3 * arguments.repeats, arguments.device)
    ratio = times["steered"].median / times["plain"].median
    return row(
        "forward, steered", "llama", ids.numel(), "tokens", times["steered"].median, against="unsteered", ratio=ratio
    )


def pictured(arguments: argparse.Namespace, peak: float) -> list[dict[str, Any]]:
    """Encode pictures once for every example, then build from them."""
    side = 28 if arguments.toy else 336
    with tempfile.TemporaryDirectory() as folder:
        lm = llava(arguments, Path(folder))
    loaded = LoadedModel.of(lm)
    examples = [
        PreferenceExample(
            f"e{seed}", f"h{seed}", images.QUESTION, " red", " blue green", (tiny.picture(seed, (2 * side, 2 * side)),)
        )
        for seed in range(arguments.pictures)
    ]
    encode(loaded, examples[0])
    seconds, encoded = common.seconds(lambda: [encode(loaded, one) for one in examples], arguments.device)
    name = f"llava, {len(encoded[0].input_ids)} prompt tokens"
    return [
        row("encode pictures", name, len(encoded), "examples", seconds),
        built(loaded, encoded, name, arguments, peak),
    ]


def main() -> None:
    """Run every part, the text model first."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="toy sizes, for a CPU")
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--prompt", type=int, default=60)
    parser.add_argument("--response", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, help="nodes per pass; default: what fits")
    parser.add_argument("--context", type=int, default=500)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    arguments.toy = arguments.toy or arguments.smoke
    if arguments.toy:
        arguments.examples, arguments.prompt, arguments.response, arguments.steps = 2, 12, 4, 5
        arguments.context, arguments.questions, arguments.pictures, arguments.repeats = 24, 2, 1, 1
    common.start(arguments)
    peak = matmul_rate(arguments.device, arguments.dtype)
    model = llama(arguments)
    texts = [
        build.example(model, arguments.prompt, (arguments.response, arguments.response), seed)
        for seed in range(arguments.examples)
    ]
    loaded = LoadedModel(lm=None, model=model, tokenizer=None)  # pyright: ignore
    rows = [built(loaded, texts, "llama", arguments, peak), *evaluated(model, arguments), overhead(model, arguments)]
    del model, loaded
    if arguments.device.startswith("cuda"):
        torch.cuda.empty_cache()
    rows += pictured(arguments, peak)
    rows.append(row("matrix product", "", 1, "", 1.0, **{"per second": peak, "share of matmul peak": 1.0}))
    common.report("gpu", rows, arguments)


if __name__ == "__main__":
    main()
