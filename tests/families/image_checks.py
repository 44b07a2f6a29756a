"""The checks of `checks` with pictures; `hf-multimodal` scores none, so that a pass by hand is the reference.

A request alone goes through the family's processor and the model in one pass without a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from grains_eval.errors import GrainsError
from grains_eval.harness.model import GrainsHFMultimodal
from grains_eval.models import LoadedModel
from grains_eval.types import PreferenceExample, SteeringConfig
from grains_eval.vectors import build_context, run_method
from tests.families import images
from tests.families.checks import (
    RULES,
    TOLERANCE,
    WORDS,
    Outcome,
    Subject,
    agrees,
    furthest,
    hooked,
    instances,
    moves,
    named,
    recipe,
    text,
)
from tests.families.configurations import Family
from tests.tiny import picture

# a context with its picture: in front, inside, and of another shape
CONTEXTS = [
    ("<image>" + text(1, 6), picture(1)),
    (text(2, 3) + " <image>" + WORDS[3] + WORDS[8] + WORDS[4], picture(2, (56, 80))),
    ("<image>" + text(4, 11), picture(3, (60, 60))),
]
ANSWERS = [WORDS[4], WORDS[5] + WORDS[9], WORDS[7] + WORDS[1] + WORDS[2]]
Request = tuple[str, str, Any]


class ImageSubject(Subject):
    """A toy vision-language model with its processor."""

    def __init__(self, family: Family) -> None:
        self.family, self.model = family, family.model()
        self.processor: Any = images.processor(family.model_type, self.model.config)
        self.words = self.processor.tokenizer
        self.pairs: Any = [(context, answer, shown) for context, shown in CONTEXTS for answer in ANSWERS]
        self.hf = HFLM(pretrained=self.model, tokenizer=self.words, batch_size=2, max_length=1024, backend="causal")
        if not (getattr(self.model.config, "image_token_id", None) or hasattr(self.model.config, "image_token_index")):
            raise images.NoProcessor("hf-multimodal needs an image_token_id, which its configuration has not")

    def ours(self, **arguments: Any) -> Any:
        given = {"batch_size": 2, "max_length": 1024, **arguments}
        return GrainsHFMultimodal(pretrained=self.model, tokenizer=self.processor, **given)

    @property
    def placeholder(self) -> str:
        """What the processor replaces by a picture."""
        known = images.names(self.family.model_type)
        first = "boi_token" if hasattr(self.processor, "boi_token") and "gemma" in self.family.model_type else None
        return known[first] if first else str(getattr(self.processor, "image_token", known["image_token"]))

    def features(self, written: str, shown: Any) -> dict[str, Tensor]:
        """One prompt through the processor, pictures nested or flat as it wants them."""
        prompt = written.replace("<image>", self.placeholder)
        try:
            made = self.processor(text=[prompt], images=[[shown]], return_tensors="pt")
        except (TypeError, ValueError, AttributeError):
            made = self.processor(text=[prompt], images=[shown], return_tensors="pt")
        return {name: value for name, value in made.items() if name != "labels"}

    @torch.no_grad()
    def forward(self, features: dict[str, Tensor], config: SteeringConfig | None, prompt: int) -> Tensor:
        """`[T, V]` logits of one prompt, nothing cached."""
        inner = getattr(self.model, "model", None)
        if getattr(inner, "rope_deltas", None) is not None:
            inner.rope_deltas = None
        if config is None:
            return self.model(**features, use_cache=False).logits[0]
        with hooked(self.model, self.deltas(config), config.operator, moves(config.positions, prompt)):
            return self.model(**features, use_cache=False).logits[0]

    @property
    def prefix_lm(self) -> bool:
        """Whether prompts are read both ways and answers from left to right, told apart by `token_type_ids`."""
        return self.family.model_type == "paligemma"

    def extend(self, features: dict[str, Tensor], token: int) -> None:
        """One more token of the answer, in every feature that has a column for each."""
        width = features["input_ids"].shape[1]
        new = {"input_ids": token, "attention_mask": 1, "token_type_ids": int(self.prefix_lm)}
        for name, value in list(features.items()):
            if value.ndim >= 2 and value.shape[:2] == (1, width):
                last = value[:, -1:] if value.ndim > 2 else torch.full_like(value[:, :1], new.get(name, 0))
                features[name] = torch.cat([value, last], dim=1)

    def picture_by_hand(self, request: Request, config: SteeringConfig | None = None) -> tuple[float, bool]:
        context, answer, shown = request
        tokens = self.words(answer).input_ids
        if self.prefix_lm:  # reads its prompt both ways, and no answer may be part of it
            features = self.features(context, shown)
            for token in tokens:
                self.extend(features, token)
        else:
            features = self.features(context + answer, shown)
        ids, count = features["input_ids"][0], len(tokens)
        logits = self.forward(features, config, len(ids) - count)[-count - 1 : -1]
        targets = ids[-count:, None]
        logprobs = logits.log_softmax(dim=-1)
        return float(logprobs.gather(-1, targets).sum()), bool((logits.argmax(-1) == targets[:, 0]).all())

    def asked(self) -> list[Instance]:
        return [
            Instance("loglikelihood", {}, (context, answer, {"visual": [shown]}), 0, ("families", index, 1))
            for index, (context, answer, shown) in enumerate(self.pairs)
        ]

    def shown_and_continued(
        self, context: str, shown: Any, tokens: int, config: SteeringConfig | None
    ) -> list[tuple[int, float]]:
        """Greedy tokens from passes without a cache over the whole text and its picture."""
        features = self.features(context, shown)
        prompt = features["input_ids"].shape[1]
        found = list[tuple[int, float]]()
        for _ in range(tokens):
            best = self.forward(features, config, prompt)[-1].topk(2)
            found.append((int(best.indices[0]), float(best.values[0] - best.values[1])))
            if found[-1][0] == self.hf.eot_token_id:
                break
            self.extend(features, found[-1][0])
        return found

    def pictures_generated(self, lm: Any, tokens: int) -> list[list[int]]:
        settings = {"until": ["\n\n\n"], "max_gen_toks": tokens, "do_sample": False}
        made: list[list[int]] = []
        original = self.model.generate

        def keep(*args: Any, **kwargs: Any) -> Any:
            given = original(*args, **kwargs)
            made.extend(row[kwargs["input_ids"].shape[1] :].tolist() for row in given)
            return given

        self.model.generate = keep
        try:
            for index, (context, shown) in enumerate(CONTEXTS[:2]):
                asked = Instance(
                    "generate_until", {}, (context, dict(settings), {"visual": [shown]}), 0, ("families", index, 1)
                )
                lm.generate_until([asked], disable_tqdm=True)
        finally:
            del self.model.generate
        return made


def unsteered(subject: ImageSubject) -> Outcome:
    """Scores with pictures are those of single passes, scores of text alone those of `hf`."""
    try:
        expected = [subject.picture_by_hand(request) for request in subject.pairs]
    except Exception as error:
        return Outcome("absent", f"no pass by hand: {named(error)}")
    other = [subject.picture_by_hand((context, answer, picture(9))) for context, answer, _ in subject.pairs]
    if furthest(other, expected) < 1e-4:
        return Outcome("absent", "another picture changes no score at toy size")
    paths = list[str]()
    for share in (False, True):
        lm = subject.ours(share_context=share)
        found = lm.loglikelihood(subject.asked(), disable_tqdm=True)
        off = furthest(found, expected)
        if not off <= TOLERANCE:
            return Outcome("wrong", f"pictures, share_context={share}: off by {off:.1e} nats from single passes")
        info = lm.get_model_info()["scoring_path"]
        paths.append(str(info.get("path", info) if isinstance(info, dict) else info))
    words = [(text(1, 9), answer) for answer in ANSWERS] + [(text(2, 20), answer) for answer in ANSWERS]
    theirs = subject.hf.loglikelihood(instances(words), disable_tqdm=True)
    try:
        plain = subject.ours(share_context=False).loglikelihood(instances(words), disable_tqdm=True)
    except GrainsError as error:
        return Outcome("same", f"{paths[-1]}; text alone is refused: {error}")
    if plain != theirs:
        return Outcome("wrong", f"text, share_context=false: off by {furthest(plain, theirs):.1e} nats from hf")
    off = furthest(subject.ours().loglikelihood(instances(words), disable_tqdm=True), theirs)
    if not off <= TOLERANCE:
        return Outcome("wrong", f"text: off by {off:.1e} nats from hf")
    return Outcome("same", paths[-1])


def steered(subject: ImageSubject) -> Outcome:
    """Steered scores with pictures equal hooks of our own, for every position rule."""
    refused, moved = list[str](), 0.0
    alone = [subject.picture_by_hand(request) for request in subject.pairs]
    for rule in RULES:
        config = SteeringConfig(layers=None, strength=0.8, positions=rule)
        lm = subject.ours()
        try:
            subject.steer(lm, config)
            found = lm.loglikelihood(subject.asked(), disable_tqdm=True)
        except GrainsError as error:
            refused.append(f"{rule}: {error}")
            continue
        expected = [subject.picture_by_hand(request, config) for request in subject.pairs]
        moved = max(moved, furthest(expected, alone))
        off = furthest(found, expected)
        if TOLERANCE < off < 1e-3:  # does the family make this much of the last bits of a vector?
            nearly = replace(config, strength=config.strength * (1 + 2**-22))
            again = [subject.picture_by_hand(request, nearly) for request in subject.pairs]
            off = 0.0 if off < 3 * furthest(again, expected) else off
        if not off <= TOLERANCE:
            return Outcome("wrong", f"pictures, positions={rule}: off by {off:.1e} nats")
    return _in_part(refused, moved)


def generation(subject: ImageSubject) -> Outcome:
    """Tokens generated after a picture are those of passes without a cache."""
    tokens = 4
    wanted = [subject.shown_and_continued(context, shown, tokens, None) for context, shown in CONTEXTS[:2]]
    try:
        made = subject.pictures_generated(subject.ours(), tokens)
    except GrainsError as error:
        return Outcome("refused", str(error))
    except Exception as error:
        return Outcome("absent", f"hf cannot generate: {named(error)}")
    if not all(agrees(own, other) for own, other in zip(made, wanted, strict=True)):
        return Outcome("absent", "hf's own generation differs from passes without a cache")
    refused = list[str]()
    for rule in RULES:
        config = SteeringConfig(layers=None, strength=1.2, positions=rule)
        lm = subject.ours()
        try:
            subject.steer(lm, config)
            made = subject.pictures_generated(lm, tokens)
        except GrainsError as error:
            refused.append(f"{rule}: {error}")
            continue
        wanted = [subject.shown_and_continued(context, shown, tokens, config) for context, shown in CONTEXTS[:2]]
        for own, other in zip(made, wanted, strict=True):
            if not agrees(own, other):
                return Outcome("wrong", f"pictures, positions={rule}: {own} instead of {[t for t, _ in other]}")
    return _in_part(refused, 1.0)


def _in_part(refused: Sequence[str], moved: float) -> Outcome:
    if len(refused) == len(RULES):
        return Outcome("refused", refused[0].partition(": ")[2])
    if moved < 1e-3:
        return Outcome("wrong", f"steering moves no score by more than {moved:.1e} nats")
    rules = ", ".join(line.partition(":")[0] for line in refused)
    return Outcome("same", f"refused: {rules} ({refused[0].partition(': ')[2]})" if refused else "")


def build(subject: ImageSubject) -> Outcome:
    """A build with pictures works and its `F` is the difference of scores by hand."""
    loaded = LoadedModel.of(subject.ours())
    asked = [
        PreferenceExample(f"e{i}", f"h{i}", context, ANSWERS[1], ANSWERS[2], (shown,))
        for i, (context, shown) in enumerate(CONTEXTS[:2])
    ]
    wanted = [
        subject.picture_by_hand((context, ANSWERS[1], shown))[0]
        - subject.picture_by_hand((context, ANSWERS[2], shown))[0]
        for context, shown in CONTEXTS[:2]
    ]
    try:
        built = run_method(build_context(loaded, asked, recipe("grains")))
    except GrainsError as error:
        return Outcome("refused", str(error))
    off = max(abs(one.value - value) for one, value in zip(built.attributions, wanted, strict=True))
    if not off <= 10 * TOLERANCE:
        return Outcome("wrong", f"F with pictures is off by {off:.1e} nats")
    return Outcome("same")


CHECKS = {"unsteered": unsteered, "steered": steered, "generation": generation, "build": build}
