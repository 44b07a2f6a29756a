"""How far do equally right orders of computation differ? What tolerances of `grains_eval.models.rounding` rest on.

    python -m benchmarks.rounding --output benchmarks/results/rounding.json

Models of random weights, most of them tiny, one deep and one wide, and a bundled trained one, in every type of numbers.
Compared are lm-eval's `hf` at batch size 8 and 1; shared and plain contexts, unsteered and under steering
configurations of the tests; what a build computes from embeddings and what the model computes from token ids and
pixels. A difference of log-probabilities is divided by the root of the answer's tokens, one of layer outputs by the
output's norm. Mixtures of experts stand apart: rounding may decide which expert is taken.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import common
from grains_eval.demo import model_path
from grains_eval.harness.prefix_sharing import plan
from grains_eval.harness.prefix_sharing.loglikelihood import Memo, score
from grains_eval.harness.prefix_sharing.proof import apart
from grains_eval.models import LoadedModel, embedding_check, encode, load
from grains_eval.types import PreferenceExample
from tests import tiny
from tests.harness.prefix_sharing import test_image_loglikelihood as pictures
from tests.harness.prefix_sharing import test_loglikelihood as text

TYPES = ("float32", "float16", "bfloat16", "float32, autocast to bfloat16")
DENSE = ("llama", "qwen2", "gemma2", "gemma3_text", "mistral", "gpt2", "gpt_neox", "opt", "mamba", "minimax")
MIXTURES = ("mixtral", "qwen3_moe")
PICTURES = ("llava", "qwen2_5_vl", "gemma3")
LARGE: dict[str, dict[str, Any]] = {
    "llama, 24 layers": {"num_hidden_layers": 24, "hidden_size": 64},
    "llama, 12 layers, 768 wide": {
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "vocab_size": 32_000,
    },
}
BUNDLED = "bundled text model"
BATCH = 8
# of the steering configurations: unsteered, at the last layer, at the last token, two at once, at attention heads
EVERY = 3
LOGPROB, STATE = "log-probability, nats per root of tokens", "layer output, share of its norm"


@dataclass(frozen=True)
class Found:
    """One difference.

    Attributes:
        what: What was compared.
        size: In nats per root of tokens, or as a share of a norm.
        of_state: Whether it is a layer output's.
    """

    what: str
    size: float
    of_state: bool = False


def large(folder: Path, changes: dict[str, Any]) -> None:
    """A Llama that is not tiny in every way."""
    config = transformers.LlamaConfig(**{**tiny.LLAMA, **changes})
    tiny.save(transformers.LlamaForCausalLM(config), tiny.tokenizer(bos=True), folder)


def arguments_of(folder: Path, kind: str) -> dict[str, Any]:
    """Model arguments for a type of numbers."""
    dtype, _, cast = kind.partition(", autocast to ")
    return {"pretrained": str(folder), "dtype": dtype, **({"mixed_precision_dtype": cast} if cast else {})}


def batches(loaded: LoadedModel, asked: Sequence[tuple[list[int], list[int]]]) -> Iterator[Found]:
    """`hf` at two batch sizes."""
    lm = loaded.lm
    requests = [((str(index), ""), context, answer) for index, (context, answer) in enumerate(asked)]
    found: list[list[tuple[float, bool]]] = []
    for size in (1, BATCH):
        lm.batch_size_per_gpu = size
        found.append(lm._loglikelihood_tokens(requests, disable_tqdm=True))
    for (_, answer), one, other in zip(asked, *found, strict=True):
        yield Found("batch of 8 against 1", apart(one[0], other[0]) / math.sqrt(len(answer)))


def contexts(loaded: LoadedModel, asked: Sequence[tuple[list[int], list[int]]]) -> Iterator[Found]:
    """Shared contexts and plain ones, of texts."""
    model, cast = loaded.model, getattr(loaded.lm, "mixed_precision_dtype", None)
    wanted = text.configurations(model)[::EVERY]
    with torch.autocast("cpu", dtype=cast) if cast else nullcontext():
        shared = score(model, asked, wanted, max_length=text.LIMIT)
        for configuration, scores in zip(wanted, shared, strict=True):
            for (_, answer), one, other in zip(asked, scores, text.plainly(model, asked, configuration), strict=True):
                # longer answers than the model takes are cut
                tokens = min(len(answer), text.LIMIT)
                yield Found("shared against plain contexts", apart(one[0], other[0]) / math.sqrt(tokens))


def picture_contexts(given: dict[str, Any]) -> Iterator[Found]:
    """Shared contexts and plain ones, of prompts with images."""
    lm = pictures.ImageModel(**given, device="cpu", batch_size=2)
    wanted, asked = text.configurations(lm.model)[::EVERY], pictures.asked()
    lengths = [lm.continuation_length(lm.prepare_image_request(each)) for each in asked]
    lm.memo = Memo(wanted)
    cast = given.get("mixed_precision_dtype")
    for index, configuration in enumerate(wanted):
        lm.memo.active = index
        shared = lm.loglikelihood(asked, disable_tqdm=True)
        with torch.autocast("cpu", dtype=getattr(torch, cast)) if cast else nullcontext():
            plain = pictures.plainly(lm, asked, configuration)
        for tokens, one, other in zip(lengths, shared, plain, strict=True):
            yield Found("shared against plain contexts", apart(one[0], other[0]) / math.sqrt(tokens))


def builds(loaded: LoadedModel, images: bool) -> Iterator[Found]:
    """From embeddings, a prompt run once for both responses where it can be, and from token ids and pixels."""
    shown = tuple(pictures.PICTURES[:1]) if images else ()
    for size in (6, 12, 24, 48):
        prompt = ("<image>\n" if images else "") + " ".join(["Question", *itertools.islice(_words(), size)])
        example = PreferenceExample(f"of {size}", f"of {size}", prompt, " paris no yes" * 4, " rome yes", shown)
        for each in embedding_check.differences(loaded, encode(loaded, example)):
            yield Found("from embeddings against token ids", each.size, each.is_state)


def _words() -> Iterator[str]:
    return itertools.cycle(tiny.INSIDE.split())


def text_model(folder: Path, kind: str, shares: bool) -> list[Found]:
    """All differences of a text model."""
    loaded = load(arguments_of(folder, kind), device="cpu")
    entries = loaded.model.config.vocab_size
    asked = [([i % entries for i in context], [i % entries for i in answer]) for context, answer in text.requests()]
    if loaded.model.config.hidden_size > 500:
        asked = asked[::3]
    shared = contexts(loaded, asked) if shares else ()
    return [*batches(loaded, asked), *shared, *builds(loaded, images=False)]


def picture_model(folder: Path, kind: str) -> list[Found]:
    """All differences of a vision-language model."""
    given = arguments_of(folder, kind)
    return [*picture_contexts(given), *builds(load(given, device="cpu"), images=True)]


def measured(kind: str, families: Sequence[str]) -> dict[str, list[Found]]:
    """Differences of every family, by its name."""
    found: dict[str, list[Found]] = {}
    for family in families:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if family in tiny.VISION:
                tiny.build_vision(family, folder)
                found[family] = picture_model(folder, kind)
            elif family == BUNDLED:
                found[family] = text_model(model_path("text_split"), kind, shares=True)
            else:
                large(folder, LARGE[family]) if family in LARGE else tiny.build_text(family, folder)
                found[family] = text_model(folder, kind, shares=family not in tiny.UNSHARED)
    return found


def rows_of(kind: str, found: dict[str, list[Found]]) -> list[dict[str, Any]]:
    """Lines of the table for a type of numbers."""
    dense = {family: each for family, each in found.items() if family not in MIXTURES}
    mixtures = {family: each for family, each in found.items() if family in MIXTURES}
    rows: list[dict[str, Any]] = []
    for of_state in (False, True):
        for what in dict.fromkeys(each.what for all_ in dense.values() for each in all_):
            rows += row(kind, what, sizes(dense, of_state, what), of_state)
        rows += row(kind, "all of these, mixtures of experts", sizes(mixtures, of_state), of_state)
    return rows


def sizes(found: dict[str, list[Found]], of_state: bool, what: str | None = None) -> dict[str, list[float]]:
    """Of every family what was found of one comparison, or of all."""
    chosen = {
        family: [each.size for each in all_ if what in (None, each.what) and each.of_state is of_state]
        for family, all_ in found.items()
    }
    return {family: each for family, each in chosen.items() if each}


def row(kind: str, what: str, found: dict[str, list[float]], of_state: bool) -> list[dict[str, Any]]:
    """A line of the table; none where there is nothing to compare."""
    if not found:
        return []
    everything = list(itertools.chain.from_iterable(found.values()))
    return [
        {
            "numbers": kind,
            "compared": what,
            "of": STATE if of_state else LOGPROB,
            "models": len(found),
            "pairs": len(everything),
            "median": float(np.median(everything)),
            "99 %": float(np.quantile(everything, 0.99)),
            "largest": max(everything),
            "found in": max(found, key=lambda family: max(found[family])),
        }
    ]


def main() -> None:
    """Measure every type of numbers."""
    arguments = common.parser(__doc__.splitlines()[0]).parse_args()
    common.start(arguments)
    tiny.allow_missing_torchvision()
    plan._PASS_COST = 0  # share even the shortest preamble
    families = ("llama", "qwen3_moe", "llava") if arguments.smoke else (*DENSE, *LARGE, *MIXTURES, *PICTURES, BUNDLED)
    rows: list[dict[str, Any]] = []
    for kind in TYPES:
        rows += rows_of(kind, measured(kind, families))
    common.report("rounding", rows, arguments)


if __name__ == "__main__":
    main()
