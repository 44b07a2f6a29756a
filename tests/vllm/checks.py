"""vLLM against Hugging Face under the same settings: log-likelihoods, whole texts and greedy answers."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grains_eval.artifacts.layout import Artifact
from grains_eval.harness.arguments import AppliedArtifact
from grains_eval.harness.model import GrainsHF
from grains_eval.steering import resolve
from grains_eval.types import SteeringConfig, SteeringVectors
from tests.instances import instance
from tests.tiny import picture
from tests.vllm.families import LAYERS, WIDTH

WORDS = "hello world what is the capital of france paris rome a red square yes no cat dog".split()  # noqa: SIM905
GENERATION = {"until": ["\x00"], "max_gen_toks": 6, "do_sample": False}
ENGINE = {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 64, "batch_size": "auto", "seed": 1}
SIZES = [(80, 56), (56, 84)]  # of images, pixels
ALONE = {"distributed_executor_backend": "uni"}


def applied(seed: int, layers: Sequence[int], **changes: Any) -> AppliedArtifact:
    """Random vectors in memory with a setting."""
    draw = torch.Generator().manual_seed(seed)
    directions = {layer: torch.randn(WIDTH, generator=draw) for layer in range(LAYERS)}
    vectors = SteeringVectors(directions, {layer: 3.0 + layer for layer in directions}, provenance={"method": "random"})
    config = SteeringConfig(layers=tuple(layers), **changes)
    artifact = Artifact("random", vectors, None, None, vectors.provenance)
    return AppliedArtifact(f"random {seed}", artifact, config, resolve(vectors, config))


def settings() -> dict[str, tuple[AppliedArtifact, ...]]:
    """Operators × units × positions, and what composition can do: one layer twice, two rules, two operators."""
    found: dict[str, tuple[AppliedArtifact, ...]] = {}
    for operator in ("add", "add_renormalised"):
        for rule in ("all", "prompt", "generated", "last"):
            found[f"{operator}, {rule}"] = (applied(1, (1, 3), strength=0.8, operator=operator, positions=rule),)
    found["absolute"] = (applied(2, (0, 2), strength=0.3, unit="absolute", operator="add"),)
    found["negative"] = (applied(3, (0, 1, 2, 3), strength=-0.4),)
    found["same layer twice"] = (applied(1, (2,), strength=0.7), applied(2, (2,), strength=0.5, operator="add"))
    found["prompt and answer"] = (
        applied(1, (1,), strength=0.9, positions="prompt"),
        applied(2, (1, 2), strength=0.6, operator="add", positions="generated"),
    )
    found["other layers"] = (applied(1, (0,), strength=0.5), applied(2, (3,), strength=0.5, operator="add"))
    return found


def requests(kind: str, count: int = 12) -> list[Any]:
    """Requests of several lengths; contexts of log-likelihoods have two answers each."""
    draw = random.Random(0)

    def phrase(words: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(words))

    made: list[Any] = []
    for number in range(count):
        context = phrase(4 + 5 * number)
        if kind == "loglikelihood":
            made += [instance(kind, {}, (context, " " + phrase(1 + i)), i, number=number) for i in range(2)]
        elif kind == "generate_until":
            made.append(instance(kind, {}, (context, GENERATION), number=number))
        else:
            made.append(instance(kind, {}, (context,), number=number))
    return made


def image_requests(kind: str, count: int = 8) -> list[Any]:
    """Requests with images of several sizes, in front of the text, in it and at its end, and every fourth without."""
    draw = random.Random(1)
    made: list[Any] = []
    for number in range(count):
        words = [draw.choice(WORDS) for _ in range(3 + 4 * number)]
        images = [] if number % 4 == 3 else [picture(number + each, SIZES[each]) for each in range(1 + number % 2)]
        for place, _ in enumerate(images):
            words.insert(((number % 3) * len(words) // 2 + place) % (len(words) + 1), "<image>")
        context, shown = " ".join(words), ({"visual": images},) if images else ()
        if kind == "loglikelihood":
            answers = [" " + " ".join(draw.choice(WORDS) for _ in range(1 + index)) for index in range(2)]
            made += [
                instance(kind, {}, (context, answer, *shown), index, number=number)
                for index, answer in enumerate(answers)
            ]
        else:
            # right behind an image transformers' `generate` gives Qwen's answers other positions than its forward
            made.append(instance(kind, {}, (context + " what", GENERATION, *shown), number=number))
    return made


def in_one_process(set_variable: Any) -> None:
    """Let an engine with `ALONE` run inside this process, which starts sooner."""
    set_variable("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


@contextmanager
def engine(folder: Path, **arguments: Any) -> Iterator[Any]:
    """A `grains_vllm` model in this process, its state of torch.distributed taken down afterwards."""
    from grains_eval.vllm.model import GrainsVLLM

    made = GrainsVLLM.of({"pretrained": str(folder), **ENGINE, **arguments})
    try:
        yield made
    finally:
        shut_down(made)
        del made
        gc.collect()


def shut_down(lm: Any) -> None:
    """End an engine's processes, or what it left in this one."""
    from vllm.distributed import cleanup_dist_env_and_memory

    core = lm.model.llm_engine.engine_core
    core.shutdown()
    cleanup_dist_env_and_memory()


def reference(folder: Path) -> Any:
    """The same model under Hugging Face."""
    # SDPA knows nothing of the soft caps of Gemma 2
    options = {"device": "cpu", "batch_size": 4, "dtype": "float32", "attn_implementation": "eager"}
    return GrainsHF.create_from_arg_obj({"pretrained": str(folder), **options})


@dataclass(frozen=True)
class Difference:
    """Of one setting.

    Attributes:
        loglikelihood: Root mean square of the difference of log-likelihoods, nats.
        resolution: What float32 can tell apart in them, nats.
        moved: Root mean square of what steering changed under Hugging Face, nats.
        same_answers: Greedy answers that are the same.
        answers: Greedy answers.
        greedy: Whether every `is_greedy` is the same.
    """

    loglikelihood: float
    resolution: float
    moved: float
    same_answers: int
    answers: int
    greedy: bool

    def agrees(self, unsteered: Difference) -> bool:
        """Within twice the difference of the unsteered engines, or the resolution, and the same answers."""
        bound = 2 * max(unsteered.loglikelihood, self.resolution)
        return self.loglikelihood <= bound and self.same_answers == self.answers and self.greedy


@dataclass(frozen=True)
class Measured:
    """What a model answers under each setting, the unsteered model first."""

    scores: Mapping[str, Sequence[tuple[float, bool]]]
    texts: Mapping[str, Sequence[str]]


def measure(
    lm: Any, tried: Mapping[str, Sequence[AppliedArtifact]], asked: Callable[[str, int], list[Any]] = requests
) -> Measured:
    """Log-likelihoods and greedy answers under every setting of `tried`; in one engine they share batches."""
    from grains_eval.harness.prefix_sharing.configurations import moving
    from grains_eval.harness.sweep import score_configurations

    named = {"unsteered": (), **tried}
    configurations = [moving([item.resolved for item in each]) for each in named.values()]
    scores = score_configurations(lm, asked("loglikelihood", 12), configurations, disable_tqdm=True)
    texts = _answers(lm, list(named.values()), asked("generate_until", 6))
    return Measured(dict(zip(named, scores, strict=True)), dict(zip(named, texts, strict=True)))


def compare(ours: Measured, theirs: Measured) -> dict[str, Difference]:
    """Setting by setting."""
    plain = torch.tensor([score for score, _ in theirs.scores["unsteered"]])
    found: dict[str, Difference] = {}
    for name, wanted in theirs.scores.items():
        left, right = (torch.tensor([score for score, _ in side]) for side in (ours.scores[name], wanted))
        texts = list(zip(ours.texts[name], theirs.texts[name], strict=True))
        found[name] = Difference(
            _rms(left - right),
            _rms(right) * torch.finfo(torch.float32).eps,
            _rms(right - plain),
            # vLLM holds back a character that is not complete, Hugging Face prints it as unknown
            sum(one.rstrip("\ufffd") == other.rstrip("\ufffd") for one, other in texts),
            len(texts),
            [greedy for _, greedy in ours.scores[name]] == [greedy for _, greedy in wanted],
        )
    return found


def _answers(lm: Any, tried: Sequence[Sequence[AppliedArtifact]], asked: list[Any]) -> list[list[str]]:
    """Greedy answers under every setting; in one engine all of them share a batch."""
    from grains_eval.harness.prefix_sharing.configurations import moving
    from grains_eval.harness.prefix_sharing.loglikelihood import Memo

    found: list[list[str]] = []
    try:
        lm.memo = Memo([moving([item.resolved for item in each]) for each in tried])
        for number in range(len(tried)):
            lm.memo.active = number
            found.append([_words(lm, each) for each in lm.generate_until(asked, disable_tqdm=True)])
    finally:
        lm.memo = None
    return found


def _words(lm: Any, text: str) -> str:
    """An answer without special tokens, which lm-eval's `vllm` shows and `hf` leaves out."""
    for token in lm.tokenizer.added_tokens_decoder.values():
        text = text.replace(str(token), "") if token.special else text
    return text


def _rms(values: torch.Tensor) -> float:
    return float(values.double().square().mean().sqrt())
