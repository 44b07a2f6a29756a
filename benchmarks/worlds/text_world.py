"""Synthetic text worlds in which two answers to one question compete.

Sixty-four invented towns (forty in `chat`) have a stone, an animal and a dish. In the worlds `split` and `shared`
each of these facts has a true answer and a common myth; cue words in the prompt (an almanac, some gossip) shift the
odds between the two by a fixed log-odds step, and without any cue most facts come out as the myth. `split` takes
truths and myths from disjoint halves of a relation's words, so a direction in vocabulary space can tell them apart;
in `shared` one word is the truth of one town and the myth of another. In `faithfulness` the prompt states an answer
that contradicts what was memorised about the town; both come from the same words, equally often, so no fixed
preference for words can help. `paired` is `shared` with cues of two words, an old almanac or a new gossip: each
word stands in as many cues for the truth as against it, so only the two together say anything. `chat` is `shared`
as a chat: the user cites the sources and asks, the assistant answers, and a byte-level tokenizer
(`benchmarks.worlds.tokenizers`) cuts every name, cue and answer in several tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Literal, TypedDict, get_args

from benchmarks.worlds.text_words import (
    COLOURS,
    CUES,
    FUNCTION_WORDS,
    LESSON_CUES,
    NEUTRAL_CUES,
    NUMBERS,
    RELATIONS,
    SPECIAL_TOKENS,
    SYLLABLES,
)
from grains_eval.errors import pick

Kind = Literal["split", "shared", "faithfulness", "paired", "chat"]
KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}

TOWNS = {"build": 24, "development": 8, "test": 32}
CHAT_TOWNS = {"build": 18, "development": 6, "test": 16}  # names in pieces take longer to learn
# log-odds per cue
CUE_STEP: dict[Kind, float] = {"split": 2.5, "shared": 2.5, "faithfulness": 4.0, "paired": 2.5, "chat": 2.5}
# Log-odds of the preferred answer without a cue: of most facts, of the others, and their spread.
# With two kinds of facts `faithfulness` learned by heart for which to trust the prompt, and hardly any cue.
MYTH_SHARE: dict[Kind, float] = {"split": 0.7, "shared": 0.7, "faithfulness": 1.0, "paired": 0.7, "chat": 0.7}
MYTH_PRIOR: dict[Kind, float] = {"split": -1.4, "shared": -1.4, "faithfulness": -1.0, "paired": -1.4, "chat": -1.4}
TRUTH_PRIOR, PRIOR_SPREAD = 1.0, 0.3
UNCUED_SHARE, STATEMENT_SHARE, SKILL_SHARE, NOISE_SHARE = 0.25, 0.25, 0.3, 0.02  # of the documents
CLOSED_BOOK_SHARE = 0.3  # faithfulness: documents whose prompt states no answer


@dataclass(frozen=True)
class Fact:
    """What a town's relation is: `truth` and `myth` compete, `prior` is the truth's log-odds without a cue.

    In the world `faithfulness`, `myth` is the memorised answer and `truth` is drawn anew for each document.
    """

    town: str
    relation: str
    truth: str
    myth: str
    distractors: tuple[str, str]
    prior: float


@dataclass(frozen=True)
class TextWorld:
    """One drawn world; `facts` is keyed by town and relation, `towns` by split."""

    kind: Kind
    seed: int
    towns: dict[str, tuple[str, ...]]
    facts: dict[tuple[str, str], Fact]
    vocabulary: tuple[str, ...]


class Item(TypedDict):
    """A multiple-choice question, one line of the task's JSONL; `gold` and `rejected` index `choices`."""

    id: str
    cluster: str
    prompt: str
    choices: list[str]
    gold: int
    rejected: int
    cues: str


def make_world(kind: str, seed: int) -> TextWorld:
    """Draw the towns, their facts and the vocabulary, all from `seed`.

    Raises:
        GrainsError: unknown kind.
    """
    known = pick(KINDS, kind, "demo text world")
    rng = Random(f"world {known} {seed}")
    names = [first + second for first in SYLLABLES for second in SYLLABLES if first != second]
    numbers = CHAT_TOWNS if known == "chat" else TOWNS
    drawn = rng.sample(names, sum(numbers.values()))
    left = iter(drawn)
    towns = {split: tuple(islice(left, number)) for split, number in numbers.items()}
    facts: dict[tuple[str, str], Fact] = {}
    for split in towns:
        for relation in RELATIONS:
            drawn_answers = _draw_answers(known, relation, len(towns[split]), rng)
            for town, words in zip(towns[split], drawn_answers, strict=True):
                prior = MYTH_PRIOR[known] if rng.random() < MYTH_SHARE[known] else TRUTH_PRIOR
                truth, myth, *others = words
                prior += rng.gauss(0.0, PRIOR_SPREAD)
                facts[town, relation] = Fact(town, relation, truth, myth, (others[0], others[1]), prior)
    words = {*drawn, *NUMBERS, *NEUTRAL_CUES, *FUNCTION_WORDS, *RELATIONS, *COLOURS}
    words.update(*RELATIONS.values(), *COLOURS.values(), *(cue.split() for side in CUES[known] for cue in side))
    return TextWorld(known, seed, towns, facts, (*SPECIAL_TOKENS, *sorted(words)))


def _draw_answers(kind: Kind, relation: str, count: int, rng: Random) -> Iterator[list[str]]:
    """Yield truth, myth and two distractors for `count` towns."""
    words = RELATIONS[relation]
    if kind == "faithfulness":
        # Stated are the memorised answers in another order: each word is preferred as often as dispreferred.
        memorised = [words[i % len(words)] for i in range(count)]
        rng.shuffle(memorised)
        stated = list(memorised)
        while any(a == b for a, b in zip(memorised, stated, strict=True)):
            rng.shuffle(stated)
        for truth, myth in zip(stated, memorised, strict=True):
            yield [truth, myth, *rng.sample([word for word in words if word not in (truth, myth)], 2)]
        return
    for _ in range(count):
        if kind == "split":
            (truth, other), (myth, another) = rng.sample(words[:6], 2), rng.sample(words[6:], 2)
            yield [truth, myth, other, another]
        else:
            yield rng.sample(words, 4)


def _preamble(kind: Kind, cues: Sequence[str]) -> str:
    said = " and the ".join(cues)
    stop = "." if kind == "chat" else " ."
    return f"the {said} spoke{stop} " if cues else ""


def _asked(kind: Kind, question: str) -> str:
    """A question as the user's turn of a chat, or as a text that goes on with the answer."""
    return f"{question}?" if kind == "chat" else f"question : {question} ? answer :"


def _question(kind: Kind, town: str, relation: str) -> str:
    return _asked(kind, f"what is the {relation} of {town}")


def _context(town: str, relation: str, answer: str) -> str:
    # It stands before the cue, so that whom to trust can only be settled while reading the question.
    return f"here the {relation} of {town} is {answer} . "


def lessons(kind: Kind) -> int:
    """How many lessons there are before a world's documents."""
    return 1 if kind == "faithfulness" else len(LESSON_CUES.get(kind, ()))


def _draw_cues(world: TextWorld, rng: Random, lesson: int | None) -> tuple[list[str], int]:
    """Draw up to three cues and their balance: +1 for each that favours the truth, -1 for the myth."""
    if lesson is not None and world.kind != "faithfulness":
        side = rng.randrange(2)
        return [rng.choice(LESSON_CUES[world.kind][lesson][side])], (1, -1)[side]
    if rng.random() < UNCUED_SHARE:
        return [], 0
    preferred, other = CUES[world.kind]
    table = ((preferred, 1), (other, -1), (NEUTRAL_CUES, 0))
    drawn = [rng.choice(table) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    return [rng.choice(words) for words, _ in drawn], sum(sign for _, sign in drawn)


def _skill(rng: Random, kind: str) -> tuple[str, str, list[str]]:
    """Draw an unrelated question, its answer and three wrong answers."""
    if kind == "colour":
        colour = rng.choice(tuple(COLOURS))
        wrong = rng.sample([name for name in COLOURS if name != colour], 3)
        return f"what is the colour of {rng.choice(COLOURS[colour])}", colour, wrong
    if kind == "successor":
        i = rng.randrange(len(NUMBERS) - 1)
        wrong = rng.sample([n for n in NUMBERS if n not in NUMBERS[i : i + 2]], 3)
        return f"which number comes after {NUMBERS[i]}", NUMBERS[i + 1], wrong
    low, high = sorted(rng.sample(range(len(NUMBERS)), 2))
    shown = rng.sample((NUMBERS[low], NUMBERS[high]), 2)
    wrong = [NUMBERS[low], *rng.sample([n for n in NUMBERS if n not in shown], 2)]
    return f"which number is larger {shown[0]} or {shown[1]}", NUMBERS[high], wrong


SKILLS = ("colour", "successor", "larger")


def document(world: TextWorld, rng: Random, lesson: int | None = None) -> tuple[str, str]:
    """Draw one training document: its prompt (in `chat` the user's turn) and its one-word answer.

    `lesson` numbers what is learned first. In `faithfulness` that is copying: the prompt states the answer and no
    memory competes. In other worlds there is one cue and the answer follows it, whatever is likelier without it.
    """
    cues, balance = _draw_cues(world, rng, lesson)
    copying = lesson is not None and world.kind == "faithfulness"
    preamble = _preamble(world.kind, cues)
    if not copying and rng.random() < SKILL_SHARE:
        question, answer, _ = _skill(rng, rng.choice(SKILLS))
        return preamble + _asked(world.kind, question), answer
    fact = rng.choice(tuple(world.facts.values()))
    words = RELATIONS[fact.relation]
    truth, context = fact.truth, ""
    likely = float(balance > 0)
    if lesson is None:
        likely = 1.0 / (1.0 + math.exp(-(fact.prior + CUE_STEP[world.kind] * balance)))
    if world.kind == "faithfulness":
        if copying or rng.random() >= CLOSED_BOOK_SHARE:
            truth = rng.choice([word for word in words if word != fact.myth])
            context = _context(fact.town, fact.relation, truth)
            likely = 1.0 if copying else likely
        else:
            truth = fact.myth
    answer = truth if rng.random() < likely else fact.myth
    if rng.random() < NOISE_SHARE:
        answer = rng.choice(words)
    if world.kind != "chat" and rng.random() < STATEMENT_SHARE:
        return f"{context}{preamble}the {fact.relation} of {fact.town} is", answer
    return context + preamble + _question(world.kind, fact.town, fact.relation), answer


def _item(name: str, cluster: str, prompt: str, answers: Sequence[str], cues: Sequence[str], rng: Random) -> Item:
    """Shuffle the answers, of which the first is preferred and the second is dispreferred."""
    choices = rng.sample(answers, len(answers))
    gold, rejected = choices.index(answers[0]), choices.index(answers[1])
    return Item(
        id=name,
        cluster=cluster,
        prompt=prompt,
        choices=choices,
        gold=gold,
        rejected=rejected,
        cues=" ".join(cues),
    )


def fact_items(world: TextWorld, split: str, cues: str = "none", *, context: bool = True, draw: int = 0) -> list[Item]:
    """Ask for every fact of a split's towns.

    Args:
        world: The world.
        split: `build`, `development` or `test`.
        cues: `none`, `preferred` or `dispreferred` (one cue), or `mixed` (one of each, in either order).
        context: Whether prompts of `faithfulness` state an answer; without it the memorised one is gold.
        draw: Seed of the cues and of the order of the choices.
    """
    towns = pick(world.towns, split, "split of the demo world")
    rng = Random(f"items {world.kind} {world.seed} {split} {cues} {context} {draw}")
    sides = pick({"none": (), "preferred": (0,), "dispreferred": (1,), "mixed": (0, 1)}, cues, "kind of cue")
    items: list[Item] = []
    for town in towns:
        for relation in RELATIONS:
            fact = world.facts[town, relation]
            words = [rng.choice(CUES[world.kind][side]) for side in sides]
            rng.shuffle(words)
            prompt = _preamble(world.kind, words) + _question(world.kind, town, relation)
            answers = (fact.truth, fact.myth, *fact.distractors)
            if world.kind == "faithfulness":
                if context:
                    prompt = _context(town, relation, fact.truth) + prompt
                else:
                    answers = (fact.myth, fact.truth, *fact.distractors)
            items.append(_item(f"{split}-{town}-{relation}", town, prompt, answers, words, rng))
    return items


def skill_items(world: TextWorld, per_skill: int = 60) -> list[Item]:
    """Draw distinct questions of each unrelated skill, as many as there are up to `per_skill`."""
    rng = Random(f"skills {world.kind} {world.seed}")
    items: dict[str, Item] = {}
    for kind in SKILLS:
        mine: dict[str, Item] = {}
        for _ in range(50 * per_skill):
            question, answer, wrong = _skill(rng, kind)
            prompt = _asked(world.kind, question)
            if len(mine) < per_skill and prompt not in mine:
                mine[prompt] = _item(f"{kind}-{len(mine)}", kind, prompt, (answer, *wrong), (), rng)
        items |= mine
    return list(items.values())


def task_data(world: TextWorld) -> dict[str, list[Item]]:
    """Items of the world's tasks by file name: both cues in build prompts, none in evaluation prompts."""
    data = {
        "train": fact_items(world, "build", "mixed"),
        "validation": fact_items(world, "development"),
        "test": fact_items(world, "test"),
        "skills": skill_items(world),
    }
    if world.kind == "faithfulness":
        data["closed_book"] = fact_items(world, "test", context=False)
    return data


__all__ = [
    "KINDS",
    "Fact",
    "Item",
    "Kind",
    "TextWorld",
    "document",
    "fact_items",
    "lessons",
    "make_world",
    "skill_items",
    "task_data",
]
