"""What must hold of every decoder family: four checks against forward passes and hooks of this file's own.

Nothing here is taken from the code under test but its entry points: requests are encoded as the harness does, blocks
are found by name, steering is written out again, generation has no cache.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor, nn
from transformers import PreTrainedModel

from grains_eval.artifacts.layout import Artifact
from grains_eval.errors import GrainsError
from grains_eval.harness.arguments import AppliedArtifact
from grains_eval.harness.model import GrainsHF
from grains_eval.recipes import parse_recipe
from grains_eval.steering import resolve
from grains_eval.types import PreferenceExample, SteeringConfig, SteeringVectors
from grains_eval.vectors import build_context, run_method
from tests.families.configurations import Family, lengths
from tests.families.images import NoProcessor
from tests.families.shrink import POSITIONS
from tests.tiny import INSIDE, STARTING, tokenizer

logging.getLogger("lm_eval").setLevel(logging.ERROR)

State = Literal["same", "refused", "wrong", "absent"]
TOLERANCE = 2e-5  # nats, a sum over an answer, in float32
RULES = ("all", "prompt", "generated", "last")
WORDS = [f" {word}" for word in INSIDE.split()]


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        state: `same` as the reference, `refused` in one line, `wrong`, or `absent`: transformers or the harness
            cannot do it either, so that there is nothing to compare with.
        detail: The path, the reason, or how far off.
    """

    state: State
    detail: str = ""

    @property
    def fine(self) -> bool:
        """Whether no number is wrong and nothing ended in a traceback."""
        return self.state != "wrong"


def named(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}".replace("|", "/")


def text(start: int, count: int) -> str:
    """`count` words of one token each."""
    return STARTING.split()[start % 6] + "".join(WORDS[(start + 7 * i) % len(WORDS)] for i in range(1, count))


def requests(config: Any) -> list[tuple[str, str]]:
    """Contexts and answers that cross every length of a configuration, in the context or in the answer.

    Some contexts share a preamble, each has answers of one, two and four tokens, and lengths come mixed.
    """
    marks = lengths(config)
    preamble = text(3, 14)
    contexts = [text(1, 5), text(2, 9)]
    contexts += [text(mark, max(2, mark - 2)) for mark in marks]
    contexts += [preamble + "".join(WORDS[i : i + 3 + mark - 14]) for i, mark in enumerate(marks) if mark > 13]
    contexts += [preamble + "".join(WORDS[i : i + i]) for i in (2, 6, 11)]
    answers = [WORDS[4], WORDS[5] + WORDS[9], WORDS[7] + WORDS[1] + WORDS[2] + WORDS[3]]
    made = [(context, answer) for context in dict.fromkeys(contexts) for answer in answers]
    return made[::2] + made[1::2]


def instances(pairs: Sequence[tuple[str, str]]) -> list[Instance]:
    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0, metadata=("families", index, 1))
        for index, pair in enumerate(pairs)
    ]


def asked_to_continue(contexts: Sequence[str], tokens: int) -> list[Instance]:
    settings = {"until": ["\n\n\n"], "max_gen_toks": tokens, "do_sample": False}
    return [
        Instance(request_type="generate_until", doc={}, arguments=(context, dict(settings)), idx=0,
                 metadata=("families", index, 1))
        for index, context in enumerate(contexts)
    ]  # fmt: skip


def blocks_by_name(model: PreTrainedModel) -> list[nn.Module]:
    """The text decoder's blocks: the list of that many modules whose name says so, found without the project."""
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and re.search(r"(^|\.)(layers?|h|blocks?)$", name)
        and not re.search(r"vision|visual|audio|tower|image", name)
        and not (model.config.is_encoder_decoder and "encoder." in name.replace("decoder.", ""))
    }
    exact = [module for module in found.values() if len(module) == depth]
    if not found:
        raise LookupError("no list of blocks has a name that the test knows")
    return list(min(exact or list(found.values()), key=lambda module: -len(module)))


@contextmanager
def hooked(
    model: PreTrainedModel, deltas: dict[int, Tensor], operator: str, mask: Callable[[int], Tensor]
) -> Generator[None, None, None]:
    """Steer by hand: `mask(n)` says which of `n` tokens of the one row move."""

    def move(delta: Tensor) -> Any:
        def after(module: nn.Module, arguments: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple | list) else output
            moved = hidden + delta.to(hidden)
            if operator == "add_renormalised":
                moved = moved * (hidden.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True))
            # streams beside the tokens stand before them (Gemma 3n) or after them (hyper-connections)
            chosen = mask(hidden.shape[1]).view(1, -1, *[1] * (hidden.ndim - 2))
            if hidden.ndim == 4 and getattr(model.config.get_text_config(decoder=True), "altup_num_inputs", 0):
                chosen = mask(hidden.shape[2]).view(1, 1, -1, 1)
            moved = torch.where(chosen, moved, hidden)
            return type(output)([moved, *output[1:]]) if isinstance(output, tuple | list) else moved

        return after

    blocks = blocks_by_name(model)
    handles = [blocks[layer].register_forward_hook(move(delta)) for layer, delta in deltas.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def moves(rule: str, prompt: int) -> Callable[[int], Tensor]:
    """Which of `n` tokens a rule moves when the first `prompt` of them are the prompt."""
    chosen: dict[str, Callable[[Tensor], Tensor]] = {
        "all": lambda index: index >= 0,
        "prompt": lambda index: index < prompt,
        "generated": lambda index: index >= prompt,
        "last": lambda index: index == prompt - 1,
    }
    return lambda count: chosen[rule](torch.arange(count))


class Subject:
    """One family's toy model with the harness objects that the checks ask."""

    def __init__(self, family: Family) -> None:
        self.family, self.model = family, family.model()
        self.words = tokenizer(bos=False)
        self.pairs = requests(self.model.config)
        self.hf = self.harness(HFLM)

    def harness(self, kind: Any, **arguments: Any) -> Any:
        given = {"batch_size": 4, "max_length": POSITIONS, **arguments}
        return kind(pretrained=self.model, tokenizer=self.words, **given)

    @cached_property
    def expected(self) -> list[tuple[float, bool]]:
        """What `hf` gives."""
        return self.scores(self.hf, self.pairs)

    @cached_property
    def vectors(self) -> SteeringVectors:
        """A random direction for the first block, a middle one and the last."""
        config = self.model.config.get_text_config(decoder=True)
        draw = torch.Generator().manual_seed(1)
        try:
            depth = len(blocks_by_name(self.model))
        except LookupError:  # one block is enough for the project to refuse
            depth = 1
        chosen = sorted({0, depth // 2, depth - 1})
        width = int(config.hidden_size)
        return SteeringVectors(
            {layer: torch.randn(width, generator=draw) for layer in chosen}, dict.fromkeys(chosen, 2.0)
        )

    def steer(self, lm: Any, config: SteeringConfig) -> None:
        artifact = Artifact("families", self.vectors, None, None, {})
        lm.steer([AppliedArtifact("own", artifact, config, resolve(self.vectors, config))])

    def deltas(self, config: SteeringConfig) -> dict[int, Tensor]:
        """What is added, written out again."""
        found = {}
        for layer in config.layers or self.vectors.layers:
            direction = self.vectors.directions[layer]
            size = config.strength * (2.0 / direction.norm() if config.unit == "relative" else 1.0)
            found[layer] = size * direction
        return found

    @torch.no_grad()
    def forget(self) -> None:
        """A short pass: rope that follows the longest text so far starts anew."""
        short = torch.tensor([[5, 6, 7]])
        self.model(**({"input_ids": short, "labels": short} if self.hf.backend == "seq2seq" else {"input_ids": short}))

    def scores(self, lm: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """What a harness object answers."""
        self.forget()
        return lm.loglikelihood(instances(pairs), disable_tqdm=True)

    def all_by_hand(
        self, pairs: Sequence[tuple[str, str]], config: SteeringConfig | None = None
    ) -> list[tuple[float, bool]]:
        """Requests in passes of their own, in the harness's order: the longest first."""
        self.forget()

        def key(index: int) -> Any:
            context, answer = self.hf._encode_pair(*pairs[index])
            return -len(context) - len(answer), (*context, *answer)

        found = {index: self.by_hand(pairs[index], config) for index in sorted(range(len(pairs)), key=key)}
        return [found[index] for index in range(len(pairs))]

    @torch.no_grad()
    def by_hand(self, pair: tuple[str, str], config: SteeringConfig | None = None) -> tuple[float, bool]:
        """One request in a pass of its own."""
        context, answer = self.hf._encode_pair(*pair)
        if self.hf.backend == "seq2seq":
            inputs = {"input_ids": torch.tensor([context]), "labels": torch.tensor([answer])}
            prompt, rows = 1, slice(0, len(answer))  # what the decoder starts from counts as the prompt
        else:
            inputs = {"input_ids": torch.tensor([(context + answer)[:-1]])}
            prompt, rows = len(context), slice(len(context) - 1, None)
        if config is None:
            logits = self.model(**inputs).logits[0, rows]
        else:
            with hooked(self.model, self.deltas(config), config.operator, moves(config.positions, prompt)):
                logits = self.model(**inputs).logits[0, rows]
        targets = torch.tensor(answer)[:, None]
        logprobs = logits.log_softmax(dim=-1)
        return float(logprobs.gather(-1, targets).sum()), bool((logits.argmax(-1) == targets[:, 0]).all())

    @torch.no_grad()
    def continued(self, context: str, tokens: int, config: SteeringConfig | None = None) -> list[tuple[int, float]]:
        """Greedy tokens, each with its lead in nats over the next best, from passes without a cache."""
        start = self.hf.tok_encode(context)
        ids, found = list(start), list[tuple[int, float]]()
        decoding = self.hf.backend == "seq2seq"
        answer = [self.model.generation_config.decoder_start_token_id or 0] if decoding else []
        for _ in range(tokens):
            row = torch.tensor([answer if decoding else ids])
            inputs = {"input_ids": torch.tensor([start]), "decoder_input_ids": row} if decoding else {"input_ids": row}
            prompt = 1 if decoding else len(start)
            if config is None:
                logits = self.model(**inputs, use_cache=False).logits[0, -1]
            else:
                with hooked(self.model, self.deltas(config), config.operator, moves(config.positions, prompt)):
                    logits = self.model(**inputs, use_cache=False).logits[0, -1]
            best = logits.topk(2)
            found.append((int(best.indices[0]), float(best.values[0] - best.values[1])))
            (answer if decoding else ids).append(found[-1][0])
            if found[-1][0] == self.hf.eot_token_id:
                break
        return found

    def generated_under_hooks(
        self, contexts: Sequence[str], tokens: int, config: SteeringConfig, batch: int
    ) -> list[list[tuple[int, float]]]:
        """What `hf` generates with hooks that count passes: the first reads the prompt, each other one token."""
        passes = prompt = 0

        def count(module: nn.Module, arguments: Any) -> None:
            nonlocal passes
            passes += 1

        def mask(width: int) -> Tensor:
            nonlocal prompt
            if passes == 1:
                prompt = 1 if self.hf.backend == "seq2seq" else width
            # without a cache, or where it was dropped, a later pass reads the whole text again
            return moves(config.positions, prompt if passes == 1 or width > 1 else 0)(width)

        def begin() -> None:
            nonlocal passes
            passes = 0

        first = blocks_by_name(self.model)[0].register_forward_pre_hook(count)
        try:
            with hooked(self.model, self.deltas(config), config.operator, mask):
                made = self.generated(self.harness(HFLM, batch_size=batch), contexts, tokens, begin)
        finally:
            first.remove()
        return [[(token, 1.0) for token in row] for row in made]

    def generated(
        self, lm: Any, contexts: Sequence[str], tokens: int, begin: Callable[[], None] = lambda: None
    ) -> list[list[int]]:
        """The tokens that the harness has generated, as the model gave them; `begin` is called before every batch."""
        kept: list[list[int]] = []
        original = lm._model_generate
        self.forget()

        def keep(*args: Any, **kwargs: Any) -> Tensor:
            begin()
            given = original(*args, **kwargs)
            inputs = args[0] if args else kwargs["context"]
            start = 1 if lm.backend == "seq2seq" else inputs.shape[1]
            kept.extend(row[start:].tolist() for row in given)
            return given

        lm._model_generate = keep
        try:
            lm.generate_until(asked_to_continue(contexts, tokens), disable_tqdm=True)
        finally:
            del lm._model_generate
        return kept


def furthest(left: Sequence[tuple[float, bool]], right: Sequence[tuple[float, bool]]) -> float:
    return max(abs(a[0] - b[0]) for a, b in zip(left, right, strict=True))


def unsteered(subject: Subject) -> Outcome:
    """Bit for bit what `hf` gives with `share_context=false`, within rounding with `true`."""
    try:
        expected = subject.expected
    except Exception as error:
        return Outcome("absent", f"hf cannot score it: {named(error)}")
    plain = subject.harness(GrainsHF, share_context=False)
    found = subject.scores(plain, subject.pairs)
    if found != expected:
        return Outcome("wrong", f"share_context=false is off by {furthest(found, expected):.1e} nats")
    whole = [Instance("loglikelihood_rolling", {}, (text(1, 30),), 0, ("families", 0, 1))]
    subject.forget()
    wanted = subject.hf.loglikelihood_rolling(whole)
    subject.forget()
    if plain.loglikelihood_rolling(whole) != wanted:
        return Outcome("wrong", "rolling log-likelihoods differ from hf's")
    lm = subject.harness(GrainsHF)
    found = subject.scores(lm, subject.pairs)
    info = lm.get_model_info()["scoring_path"]
    path = str(info.get("path", info) if isinstance(info, dict) else info)
    off = furthest(found, expected)
    if not off <= TOLERANCE:
        return Outcome("wrong", f"{path}: off by {off:.1e} nats from hf")
    return Outcome("same", path)


def steered(subject: Subject) -> Outcome:
    """Steered scores equal hooks of this file's own, on both paths and for every position rule."""
    if not hasattr(subject, "hf") or unscorable(subject):
        return Outcome("absent")
    some = subject.pairs[:: max(1, len(subject.pairs) // 9)]
    settings: list[tuple[SteeringConfig, bool]] = [
        (SteeringConfig(layers=None, strength=0.7, operator="add_renormalised"), False),
        (SteeringConfig(layers=subject.vectors.layers[-1:], strength=0.3, unit="absolute", operator="add"), True),
        *[(SteeringConfig(layers=None, strength=1.0, positions=rule), True) for rule in RULES[1:]],
    ]  # fmt: skip
    refused, moved = list[str](), 0.0
    alone = subject.all_by_hand(some)
    noise = furthest(alone, subject.scores(subject.hf, some))
    for config, share in settings:
        batched = config.positions == "all" and not share
        # where hf's own numbers depend on the batch, requests are compared one by one
        lm = subject.harness(GrainsHF, share_context=share, batch_size=4 if batched or noise < 1e-4 else 1)
        try:
            subject.steer(lm, config)
            found = subject.scores(lm, some)
        except GrainsError as error:
            refused.append(f"positions={config.positions}: {error}")
            continue
        if batched:  # as hf batches, with hooks of our own
            with hooked(subject.model, subject.deltas(config), config.operator, moves("all", 0)):
                expected = subject.scores(subject.hf, some)
        else:
            expected = subject.all_by_hand(some, config)
        moved = max(moved, furthest(expected, alone))
        off = furthest(found, expected)
        if batched and TOLERANCE < off < 1e-3:  # does the family make this much of the last bits of a block's output?
            nearly = {layer: delta * (1 + 2**-22) for layer, delta in subject.deltas(config).items()}
            with hooked(subject.model, nearly, config.operator, moves("all", 0)):
                again = subject.scores(subject.hf, some)
            off = 0.0 if off < 3 * furthest(again, expected) else off
        if not off <= (max(TOLERANCE, 2 * noise) if noise < 1e-4 else TOLERANCE):
            return Outcome("wrong", f"positions={config.positions}, share_context={share}: off by {off:.1e} nats")
    if len(refused) == len(settings):
        return Outcome("refused", refused[0].partition(": ")[2])
    if moved < 1e-3:
        return Outcome("wrong", f"steering moves no score by more than {moved:.1e} nats")
    rules = ", ".join(line.partition(":")[0].removeprefix("positions=") for line in refused)
    notes = [f"refused: {rules} ({refused[0].partition(': ')[2]})"] if refused else []
    notes += [f"hf's own scores depend on the batch, by {noise:.1g} nats"] if noise > 1e-4 else []
    return Outcome("same", "; ".join(notes))


def unscorable(subject: Subject) -> bool:
    try:
        return not subject.expected
    except Exception:
        return True


def generation(subject: Subject) -> Outcome:
    """Every position rule in generation gives the tokens of passes without a cache."""
    marks = lengths(subject.model.config)
    tokens = 6
    contexts = [text(5, 4), text(8, max(7, marks[-1] - 2))]
    try:
        plain = [subject.continued(context, tokens) for context in contexts]
    except Exception as error:
        return Outcome("absent", f"no pass without cache: {named(error)}")
    order = [1, 0]  # the harness takes the longest first
    for batch in (2, 1):
        try:
            made = subject.generated(subject.harness(HFLM, batch_size=batch), contexts, tokens)
        except Exception as error:
            return Outcome("absent", f"hf cannot generate: {named(error)}")
        cached = not all(agrees(made[at], plain[index]) for at, index in enumerate(order))
        if not cached:
            break
    refused = list[str]()
    lm = subject.harness(GrainsHF, batch_size=batch)
    for rule in RULES:
        config = SteeringConfig(layers=None, strength=1.5, positions=rule)
        try:
            subject.steer(lm, config)
            made = subject.generated(lm, contexts, tokens)
        except GrainsError as error:
            refused.append(f"{rule}: {error}")
            continue
        expected = [subject.continued(contexts[index], tokens, config) for index in order]
        if all(agrees(own, wanted) for own, wanted in zip(made, expected, strict=True)):
            continue
        # a sparse selection may turn on rounding, and then a cache decides: hf's own generation, under our hooks
        expected = subject.generated_under_hooks(contexts, tokens, config, batch)
        cached = True
        for own, wanted in zip(made, expected, strict=True):
            if not agrees(own, wanted):
                return Outcome("wrong", f"positions={rule}: {own[:tokens]} instead of {[token for token, _ in wanted]}")
    if len(refused) == len(RULES):
        return Outcome("refused", refused[0].partition(": ")[2])
    rules = ", ".join(line.partition(":")[0] for line in refused)
    notes = [f"refused: {rules} ({refused[0].partition(': ')[2]})"] if refused else []
    if cached:
        notes.append("hf's own generation differs from passes without a cache; compared with hooks on it")
    elif batch == 1:
        notes.append("hf's own generation depends on padding")
    return Outcome("same", "; ".join(notes))


def agrees(made: Sequence[int], expected: Sequence[tuple[int, float]]) -> bool:
    """Whether tokens are the expected ones, up to the first choice that rounding could turn."""
    for token, (wanted, lead) in zip(made, expected, strict=False):
        if lead < 1e-3:
            return True
        if token != wanted:
            return False
    return len(made) >= len(expected)


def examples(config: Any) -> list[PreferenceExample]:
    """Preferences whose prompts end just before a length of the configuration, and whose answers cross it."""
    made = [PreferenceExample("e0", "h0", "What is the capital of france", " paris yes", " rome")]
    for mark in lengths(config)[-2:]:
        prompt = text(6 + mark, max(4, mark - 1))
        made.append(PreferenceExample(f"e{mark}", f"h{mark}", prompt, " good dog yes true", " bad harm no"))
    return made


def recipe(method: str) -> Any:
    section = {"top_k": 3, "steps": 2, "max_steps": 2, "tolerance": 1.0}
    data = {"path": "unused.jsonl", "examples": 3, "development": 0}
    return parse_recipe({"name": "families", "data": data, "attribution": section, "vectors": {"method": method}})


def build(subject: Subject) -> Outcome:
    """A build works, its `F` is `hf`'s difference of log-likelihoods, and CAA reads the states of token ids."""
    from grains_eval.models import LoadedModel

    if unscorable(subject):
        return Outcome("absent")
    loaded = LoadedModel.of(subject.hf)
    asked = examples(subject.model.config)
    pairs = [(str(one.prompt), answer) for one in asked for answer in (one.chosen, one.rejected)]
    scores = list[float]()
    for pair in pairs:
        subject.forget()  # each text as a model that was just loaded reads it
        scores.append(subject.by_hand(pair)[0])
    wanted = [good - bad for good, bad in zip(scores[::2], scores[1::2], strict=True)]
    try:
        built = run_method(build_context(loaded, asked, recipe("grains")))
    except GrainsError as error:
        return Outcome("refused", str(error))
    off = max(abs(one.value - value) for one, value in zip(built.attributions, wanted, strict=True))
    if not off <= 10 * TOLERANCE:
        return Outcome("wrong", f"F is off by {off:.1e} nats from hf's difference")
    if not all(torch.isfinite(one).all() and one.norm() > 0 for one in built.vectors.directions.values()):
        return Outcome("wrong", "a direction is zero or not finite")
    try:
        caa = run_method(build_context(loaded, asked, recipe("caa"))).vectors
    except GrainsError as error:
        return Outcome("same", f"caa refused: {error}")
    try:
        states = torch.stack([states_by_hand(subject, pair) for pair in pairs])
    except Exception as error:
        return Outcome("wrong", f"the states of the test itself: {named(error)}")
    deltas = (states[0::2] - states[1::2]).mean(dim=0)
    own = torch.stack([caa.directions[layer] for layer in range(len(caa.directions))])
    far = float((own - deltas).norm() / deltas.norm())
    if not far < 1e-3:
        return Outcome("wrong", f"caa is off by {100 * far:.0f} % from the states of token ids")
    return Outcome("same")


@torch.no_grad()
def states_by_hand(subject: Subject, pair: tuple[str, str]) -> Tensor:
    """`[L, H]` block outputs at the last token of context and answer."""
    kept: list[Tensor] = []

    def keep(module: Any, arguments: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple | list) else output
        kept.append(hidden[0, -1].float())

    subject.forget()
    context, answer = subject.hf._encode_pair(*pair)
    handles = [block.register_forward_hook(keep) for block in blocks_by_name(subject.model)]
    if subject.hf.backend == "seq2seq":
        # the decoder reads its start token and the answer
        start = torch.tensor([[subject.model.config.decoder_start_token_id, *answer]])
        subject.model(input_ids=torch.tensor([context]), decoder_input_ids=start)
    else:
        subject.model(torch.tensor([context + answer]))
    for handle in handles:
        handle.remove()
    return torch.stack(kept)


CHECKS: dict[str, Callable[[Subject], Outcome]] = {
    "unsteered": unsteered,
    "steered": steered,
    "generation": generation,
    "build": build,
}


def examined(family: Family, checks: Sequence[str] = tuple(CHECKS)) -> dict[str, Outcome]:
    """Every check of one family; an error that is no line of the project's own is `wrong`."""
    from tests.families import image_checks  # which takes what it needs from here

    seeing = family.kind == "vision-language"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            subject: Any = (image_checks.ImageSubject if seeing else Subject)(family)
        except Exception as error:
            reason = f"not built at toy size: {error if isinstance(error, NoProcessor) else named(error)}"
            return {name: Outcome("absent", reason) for name in checks}
        functions: Any = image_checks.CHECKS if seeing else CHECKS
        found: dict[str, Outcome] = {}
        for name in checks:
            if any(outcome.state == "absent" for outcome in found.values()) and seeing:
                found[name] = Outcome("absent")
                continue
            try:
                found[name] = functions[name](subject)
            except GrainsError as error:
                found[name] = Outcome("refused", str(error))
            except Exception as error:
                found[name] = Outcome("wrong", named(error))
        return found
