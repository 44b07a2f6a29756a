"""What is measured in one trained world: a found token, its controls, vectors and a cue in the prompt."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import process_time
from typing import Any

import torch

from benchmarks.demo_seeds import Trial, measure, open_trial, tuned
from benchmarks.worlds.scoring import right
from benchmarks.worlds.text_world import Item, Kind, fact_items, make_world
from grains_eval.attribution import attribute
from grains_eval.attribution.selections import shared_tokens
from grains_eval.errors import GrainsError
from grains_eval.examples import load_examples
from grains_eval.models import EncodedExample
from grains_eval.recipes import AttributionConfig
from grains_eval.types import Attribution, FoundTokens, SteeringConfig, SteeringVectors, TokenConfig, TokenPool
from grains_eval.vectors import BuildContext, build_context, run_method
from grains_eval.vectors.found_tokens import BuiltTokens, Options, Pool, found_tokens
from grains_eval.vectors.token_controls import other_side, random_like, vocabulary
from grains_eval.virtual_tokens import ResolvedTokens, shown
from grains_eval.virtual_tokens.merging import resolve_tokens

UNSTEERED, FOUND, STRONGER, CUE = "unsteered", "found token", "found token, strength ln 3", "cue in the prompt"
EVERY, TUNED_VOCABULARY = "every token, then transfer", "vocabulary vector, tuned"
# what leaving out frequent tokens does by itself, without attribution
CONTENTS = "every token but template words, then transfer"
FREQUENT = {"max_document_frequency": 1.0}  # of a draw that may take template words too
# method, and selection where it is not the recipe's
VECTORS: dict[str, tuple[str, str | None]] = {
    "GrAInS vector": ("grains", None),
    "GrAInS vector, selection transfer": ("grains", "transfer"),
    "vocabulary vector": ("vocabulary", None),
}
Scorer = Callable[[Sequence[Item]], list[float]]


@dataclass(frozen=True)
class World:
    """A kind of world, and the cues of the prompts that tokens and vectors are built from."""

    kind: Kind
    build_cues: str = "mixed"


WORLDS = {
    "split": World("split"),
    "shared": World("shared"),
    "faithfulness": World("faithfulness"),
    "paired": World("paired"),
    "chat": World("chat"),
    "split_without_cues": World("split", "none"),
    "shared_without_cues": World("shared", "none"),
}


@dataclass
class Row:
    """One method in one world.

    Attributes:
        draws: `1` or `0` per test item, one string a draw.
        skills: Accuracy on skills that settled nothing, mean over draws.
        closed_book: Accuracy without a stated answer; None where the world states none.
        notes: What was found, or why nothing was, by draw.
    """

    draws: list[str] = field(default_factory=list[str])
    skills: float = 0.0
    closed_book: float | None = None
    notes: list[str] = field(default_factory=list[str])


class Measured:
    """Rows of one world.

    Attributes:
        one: The world with its model.
        closed_book: Test questions without a stated answer; empty where the world states none.
        kept: Items on which a candidate must do no harm; none of them is reported.
        rows: What was measured so far.
    """

    def __init__(self, one: Trial, closed_book: Sequence[Item], kept: Sequence[Item]) -> None:
        self.one, self.closed_book, self.kept = one, closed_book, kept
        self.rows: dict[str, Row] = {}

    def lacks(self, *names: str) -> bool:
        """Whether one of these rows was not measured before."""
        return not set(names) <= set(self.rows)

    def add(self, name: str, scorers: Sequence[Scorer], notes: Sequence[str] = ()) -> None:
        """Add a row that is not there yet; a scorer per draw."""
        if not self.lacks(name):
            return
        draws = ["".join(str(int(value)) for value in score(self.one.test)) for score in scorers]
        skills = statistics.mean(statistics.mean(score(self.one.skills[1::2])) for score in scorers)
        book = [statistics.mean(score(self.closed_book)) for score in scorers] if self.closed_book else []
        self.rows[name] = Row(draws, skills, statistics.mean(book) if book else None, [n for n in notes if n])

    def add_tokens(self, name: str, draws: Sequence[Callable[[], FoundTokens]], setting: TokenConfig) -> None:
        """Add a row of tokens that is not there yet; a draw that finds nothing leaves the model as it is."""
        if not self.lacks(name):
            return
        scorers: list[Scorer] = []
        notes: list[str] = []
        for make in draws:
            tokens = None
            try:
                found = make()
                tokens = resolve_tokens(found, setting)
                notes.append(self.said(found.positive))
            except GrainsError as error:
                notes.append(str(error))
            scorers.append(lambda items, tokens=tokens: self.right(items, tokens))
        self.add(name, scorers, notes)

    def said(self, pool: TokenPool) -> str:
        """What a pool holds, in words."""
        return said(pool)

    def steered(self, vectors: SteeringVectors | None, setting: SteeringConfig, items: Sequence[Item]) -> list[float]:
        """1.0 per item whose gold choice is the likeliest under a vector, or without one."""
        return measure(self.one, vectors, setting, items)

    def right(self, items: Sequence[Item], tokens: ResolvedTokens | None = None) -> list[float]:
        """1.0 per item whose gold choice is the likeliest, with or without a virtual token."""
        with nullcontext() if tokens is None else shown(self.one.loaded.model, [[tokens]]):
            return right(self.one.loaded.model, self.one.loaded.tokenizer, items)[0].tolist()

    def harmless(self, tokens: Sequence[ResolvedTokens]) -> list[bool]:
        """Whether at most one of the kept items is lost where each token is shown; tokens share a pass."""
        model, tokenizer = self.one.loaded.model, self.one.loaded.tokenizer
        least = sum(self.right(self.kept)) - 1
        found: list[bool] = []
        for start in range(0, len(tokens), 64):
            some = tokens[start : start + 64]
            with shown(model, [[token] for token in some]):
                found += (right(model, tokenizer, self.kept, len(some)).sum(1) >= least).tolist()
        return found


def open_world(name: str, seed: int, folder: Path, items: Path, scratch: Path) -> Measured:
    """A trained world; its build prompts are written to `scratch`."""
    spec = WORLDS[name]
    world = make_world(spec.kind, seed)
    one = open_trial(spec.kind, seed, folder, items)
    file = scratch / f"{name}_{seed}.jsonl"
    lines = [json.dumps(item) + "\n" for item in fact_items(world, "build", spec.build_cues)]
    file.write_text("".join(lines), encoding="utf-8")
    data = one.recipe.data.model_copy(update={"path": str(file), "cluster": "cluster"})
    one = replace(one, recipe=one.recipe.model_copy(update={"data": data}))
    if spec.kind != "faithfulness":
        return Measured(one, (), one.skills[::6])
    kept = [*one.skills[::12], *fact_items(world, "development", context=False)[::2]]
    return Measured(one, fact_items(world, "test", context=False), kept)


def measure_world(name: str, seed: int, measured: Measured, draws: int, pools: bool = True) -> dict[str, Any]:
    """Measure every row of a world that is not measured yet.

    Args:
        name: Which world.
        seed: Its seed.
        measured: The world; rows that it holds stay as they are.
        draws: Draws of each random control.
        pools: Whether tokens are built from other pools too, which takes most of the time.

    Returns:
        JSON values: the rows, and CPU seconds of the parts of a build.
    """
    one = measured.one
    cued = fact_items(make_world(WORLDS[name].kind, seed), "test", "preferred")
    measured.add(UNSTEERED, [measured.right])
    measured.add(CUE, [lambda items: measured.right(cued if items is one.test else items)])
    seconds: dict[str, float] = {}
    examples = load_examples(one.recipe.data, one.loaded).build
    context = build_context(one.loaded, examples, one.recipe)
    context = replace(context, attribute=timed_attribution(one, seconds))
    vector_rows(measured, context, VECTORS)
    token_rows(measured, context, seconds, draws, pools)
    seconds = {part: round(spent, 1) for part, spent in seconds.items()}
    return {"cpu_seconds": seconds, "rows": {label: asdict(row) for label, row in measured.rows.items()}}


def timed_attribution(
    one: Trial, seconds: dict[str, float]
) -> Callable[[EncodedExample, AttributionConfig], Attribution]:
    """Attribution that scores every example once, and adds its CPU seconds to `seconds`."""
    scores: dict[str, Attribution] = {}

    def once(example: EncodedExample, config: AttributionConfig) -> Attribution:
        if example.example.id not in scores:
            before = process_time()
            scores[example.example.id] = attribute(one.loaded, example, config, one.recipe.seed)
            seconds["attributions"] = seconds.get("attributions", 0.0) + process_time() - before
        return scores[example.example.id]

    return once


def vector_rows(measured: Measured, context: BuildContext, methods: Mapping[str, tuple[str, str | None]]) -> None:
    """Add the rows of vectors that are not there yet, each at the recipe's setting and at its tuned one."""
    one = measured.one
    for label, (method, selection) in methods.items():
        if not measured.lacks(label, f"{label}, tuned"):
            continue
        own = context if selection is None else context.with_attribution(selection=selection)
        section = one.recipe.vectors.model_copy(update={"method": method})
        vectors = run_method(replace(own, recipe=own.recipe.model_copy(update={"vectors": section}))).vectors
        best = tuned(one, vectors, score=measured.steered)
        for row, setting in ((label, one.setting), (f"{label}, tuned", best)):
            where = f"layer {'/'.join(map(str, setting.layers or ()))}, strength {setting.strength:g}"
            measured.add(row, [lambda items, v=vectors, s=setting: measured.steered(v, s, items)], [where])


def token_rows(
    measured: Measured, context: BuildContext, seconds: dict[str, float], draws: int, pools: bool = True
) -> None:
    """Add the rows of virtual tokens that are not there yet.

    Args:
        measured: The world.
        context: The build.
        seconds: Where CPU seconds of the parts of a build are noted.
        draws: Draws of each random control.
        pools: Whether tokens are built from other pools too.
    """
    one = measured.one
    shared = shared_tokens(context.examples, Options().max_document_frequency)
    contents = replace(context, examples=[_without(shared, example) for example in context.examples])

    def pool(
        kind: Pool,
        options: dict[str, Any] | None = None,
        tested: bool = True,
        both_sides: bool = False,
        context: BuildContext = context,
    ) -> BuiltTokens:
        section = one.recipe.vectors.model_copy(update={"method": "found_tokens", "options": options or {}})
        own: BuildContext = replace(context, recipe=one.recipe.model_copy(update={"vectors": section}))
        before = process_time()
        try:
            return found_tokens(own, measured.harmless, kind, tested, both_sides)
        finally:
            part = kind if context is not contents else CONTENTS
            seconds.setdefault(part if tested else "blind", process_time() - before)

    setting = TokenConfig()
    found, reason = None, ""
    try:
        found = pool("attribution", both_sides=True).tokens
    except GrainsError as error:
        reason = str(error)
    numbers = range(draws)
    blind: dict[str, list[Callable[[], FoundTokens]]] = {
        "blind tokens": [lambda d=d: pool("random", {"draw": d, **FREQUENT}, tested=False).tokens for d in numbers],
        "blind tokens, template words left out": [
            lambda d=d: pool("random", {"draw": d}, tested=False).tokens for d in numbers
        ],
    }
    tested: dict[str, list[Callable[[], FoundTokens]]] = {
        "random pool, then transfer": [lambda d=d: pool("random", {"draw": d, **FREQUENT}).tokens for d in numbers],
        EVERY: [lambda: pool("every").tokens],
        "random pool without template words, then transfer": [
            lambda d=d: pool("random", {"draw": d}).tokens for d in numbers
        ],
        CONTENTS: [lambda: pool("every", context=contents).tokens],
    }
    later: dict[str, list[Callable[[], FoundTokens]]] = {}
    if found is None:
        for label in (FOUND, STRONGER):
            measured.add(label, [measured.right], [reason])
    else:
        own_token = found
        measured.add_tokens(FOUND, [lambda: own_token], setting)
        measured.add_tokens(STRONGER, [lambda: own_token], replace(setting, strength=math.log(3)))
        later = {
            "random keys and values": [lambda d=d: random_like(own_token, d) for d in numbers],
            "found key, random value": [lambda d=d: random_like(own_token, d, keys=False) for d in numbers],
            "vocabulary token": [lambda: vocabulary(context, own_token)],
            "tokens of the other side": [lambda: other_side(own_token)],
        }
    for label, makers in {**later, **blind, **(tested if pools else {})}.items():
        measured.add_tokens(label, makers, setting)


def _without(shared: frozenset[int], example: EncodedExample) -> EncodedExample:
    """The same prompt with template words no candidates."""
    common = torch.tensor([token in shared for token in example.input_ids.tolist()])
    return replace(example, is_candidate=example.is_candidate & ~common)


def said(pool: TokenPool) -> str:
    """The most frequent words of a pool and where they stood; nothing for states that come from no prompt."""
    words = Counter(one.word for one in pool.origins if one.word)
    if not words:
        return ""
    distances = sorted(one.distance for one in pool.origins)
    shown_words = ", ".join(f"{word} {count}" for word, count in words.most_common(8))
    return f"{len(pool.origins)} tokens, distance {distances[len(distances) // 2]}: {shown_words}"
