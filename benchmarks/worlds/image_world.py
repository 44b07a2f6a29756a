"""An image world with a hallucination bias: what an image shows against what its room usually holds.

Forty-eight invented rooms each have a usual thing and a usual colour, learned by heart from text. A question
about a room comes with an image of one coloured thing. Its answer is the pictured one with log-odds

    bias of the room's fact + 3 * (truth cues - myth cues),

where cues are words of the prompt (an auditor, a dreamer) and stamps in the image (a seal, a smear). Most
facts have a negative bias: without cues the model names what is usual. Questions about the image alone
carry no such bias, so that seeing is learned and can be told from choosing. `vocabulary` says where usual
answers come from: words that no image shows (`split`), the pictured words (`shared`), or either (`half`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple, TypedDict, get_args

from benchmarks.worlds.image_words import (
    ATTRIBUTES,
    CUE_STAMPS,
    CUE_WORDS,
    FUNCTION_WORDS,
    NUMBERS,
    PICTURED,
    SIDES,
    SPECIAL_TOKENS,
    SYLLABLES,
    UNPICTURED,
    Attribute,
    cue_words,
    prose,
    room_question,
    sight_question,
    successor_question,
    usual_question,
)
from grains_eval.demo.scenes import BACKGROUND, CELLS, GRID, INKS, Mark
from grains_eval.errors import pick

Vocabulary = Literal["split", "half", "shared"]
Scene = tuple[Mark, ...]

VOCABULARIES: dict[str, Vocabulary] = {name: name for name in get_args(Vocabulary)}
ROOMS = 48
SPLITS: dict[str, tuple[int, int]] = {"train": (0, 18), "validation": (18, 24), "test": (24, ROOMS)}
USUAL_SHARE, USUAL_BIAS, PICTURED_BIAS, BIAS_SPREAD = (
    0.7,
    -1.4,
    1.0,
    0.3,
)  # log-odds of the pictured answer, uncued


class Fact(NamedTuple):
    """A room's usual thing or colour and the pictured answer's log-odds when there is no cue."""

    usual: str
    bias: float


@dataclass(frozen=True)
class ImageWorld:
    """One drawn world; `rooms` by split, `facts` by room and attribute, `background` the grey level of its images."""

    seed: int
    vocabulary: Vocabulary
    rooms: Mapping[str, tuple[str, ...]]
    facts: Mapping[tuple[str, Attribute], Fact]
    words: tuple[str, ...]
    background: int = BACKGROUND


class Item(TypedDict):
    """A multiple-choice question, one line of a task's JSONL; `gold` and `rejected` index `choices`."""

    id: str
    cluster: str
    prompt: str
    choices: list[str]
    gold: int
    rejected: int
    cues: str
    scene: list[list[int | str]]
    noise: int


def make_world(vocabulary: str, seed: int, background: int = BACKGROUND) -> ImageWorld:
    """Draw the rooms and their facts from `seed`; the level of the images' `background` changes nothing else.

    Raises:
        GrainsError: unknown vocabulary.
    """
    known = pick(VOCABULARIES, vocabulary, "vocabulary of the image world")
    rng = Random(f"image world {seed}")
    names = [first + second for first in SYLLABLES for second in SYLLABLES if first != second]
    drawn = tuple(rng.sample(names, ROOMS))
    facts: dict[tuple[str, Attribute], Fact] = {}
    for room in drawn:
        for attribute in ATTRIBUTES:
            pictured = known == "shared" or (known == "half" and rng.random() < 0.5)
            usual = rng.choice((PICTURED if pictured else UNPICTURED)[attribute])
            bias = USUAL_BIAS if rng.random() < USUAL_SHARE else PICTURED_BIAS
            facts[room, attribute] = Fact(usual, bias + rng.gauss(0.0, BIAS_SPREAD))
    words = {*drawn, *NUMBERS, *SIDES, *FUNCTION_WORDS, "thing", "colour"}
    words.update(*PICTURED.values(), *UNPICTURED.values(), *CUE_WORDS.values())
    rooms = {split: drawn[start:end] for split, (start, end) in SPLITS.items()}
    return ImageWorld(seed, known, rooms, facts, (*SPECIAL_TOKENS, *sorted(words)), background)


def draw_scene(rng: Random, thing: str, colour: str, stamps: Sequence[str] = ()) -> Scene:
    """Put the thing (always first) and one stamp per cue kind on different cells."""
    cells = rng.sample(range(CELLS), 1 + len(stamps))
    stamped = zip(cells[1:], stamps, strict=True)
    marks = [Mark(cell, CUE_STAMPS[kind], rng.choice(tuple(INKS))) for cell, kind in stamped]
    return (Mark(cells[0], thing, colour), *marks)


def sight_answer(kind: str, scene: Scene) -> str:
    """What the image says."""
    cell, thing, colour = scene[0]
    return {"thing": thing, "colour": colour, "side": SIDES[cell % GRID >= GRID // 2]}[kind]


def conflict_items(
    world: ImageWorld, split: str, repeats: int, spoken: Sequence[str] = (), stamps: Sequence[str] = ()
) -> list[Item]:
    """Questions whose image contradicts the room's fact, every prompt with these kinds of cues.

    Choices: what is pictured (gold), what is usual (rejected), and two more words, of the same word classes.
    """
    rng = Random(f"conflict {world.seed} {split} {spoken} {stamps}")
    items: list[Item] = []
    for repeat in range(repeats):
        for room in world.rooms[split]:
            for attribute in ATTRIBUTES:
                name = f"{split}-{room}-{attribute}-{repeat}"
                items.append(_conflict(world, rng, name, room, attribute, spoken, stamps))
    return items


def build_items(world: ImageWorld, repeats: int) -> list[Item]:
    """Questions of the build rooms to make vectors from: a truth and a myth cue each, in words or image.

    Neutral words and stamps fill the places that are left, so that number and length tell nothing.
    """
    rng = Random(f"build {world.seed}")
    items: list[Item] = []
    for repeat in range(repeats):
        for room in world.rooms["train"]:
            for attribute in ATTRIBUTES:
                slots = [["neutral", "neutral"], ["neutral", "neutral"]]
                for kind, place in zip(("truth", "myth"), rng.sample(range(4), 2), strict=True):
                    slots[place // 2][place % 2] = kind
                name = f"train-{room}-{attribute}-{repeat}"
                items.append(_conflict(world, rng, name, room, attribute, *slots, choices=2))
    return items


def _conflict(
    world: ImageWorld,
    rng: Random,
    name: str,
    room: str,
    attribute: Attribute,
    spoken: Sequence[str],
    stamps: Sequence[str],
    choices: int = 4,
) -> Item:
    usual = world.facts[room, attribute].usual
    thing, colour = rng.choice(PICTURED["thing"]), rng.choice(PICTURED["colour"])
    seen = rng.choice([word for word in PICTURED[attribute] if word != usual])
    thing, colour = (seen, colour) if attribute == "thing" else (thing, seen)
    other = rng.choice([word for word in PICTURED[attribute] if word not in (seen, usual)])
    unseen = PICTURED if world.vocabulary == "shared" else UNPICTURED  # one more word of the kind that is usual
    last = rng.choice([word for word in unseen[attribute] if word not in (seen, usual, other)])
    cues = " ".join([*(f"word:{kind}" for kind in spoken), *(f"stamp:{kind}" for kind in stamps)])
    prompt = prose(room_question(room, attribute, cue_words(rng, spoken)))
    words = [seen, usual, other, last][:choices]
    scene = draw_scene(rng, thing, colour, stamps)
    return _item(rng, name, room, prompt, words, scene, cues)


def sight_items(world: ImageWorld, per_kind: int) -> list[Item]:
    """Questions about the image alone; the cluster is the kind of question and its answer."""
    rng = Random(f"sight {world.seed}")
    items: list[Item] = []
    for kind in ("thing", "colour", "side"):
        options = SIDES if kind == "side" else PICTURED["thing" if kind == "thing" else "colour"]
        for number in range(per_kind):
            scene = draw_scene(rng, rng.choice(PICTURED["thing"]), rng.choice(PICTURED["colour"]))
            answer = sight_answer(kind, scene)
            wrong = [word for word in options if word != answer]
            choices = [answer, *rng.sample(wrong, min(3, len(wrong)))]
            prompt = prose(sight_question(kind))
            items.append(_item(rng, f"{kind}-{number}", f"{kind} {answer}", prompt, choices, scene))
    return items


def text_items(world: ImageWorld) -> list[Item]:
    """Questions without an image: the next number, and what is usual in the rooms of the test split."""
    rng = Random(f"text {world.seed}")
    items: list[Item] = []
    for number, follower in pairwise(NUMBERS):
        wrong = rng.sample([word for word in NUMBERS if word not in (number, follower)], 3)
        prompt = prose(successor_question(number))
        items.append(_item(rng, f"successor-{number}", "successor", prompt, [follower, *wrong]))
    for room in world.rooms["test"]:
        for attribute in ATTRIBUTES:
            usual = world.facts[room, attribute].usual
            group = PICTURED if usual in PICTURED[attribute] else UNPICTURED
            wrong = rng.sample([word for word in group[attribute] if word != usual], 3)
            prompt = prose(usual_question(room, attribute))
            items.append(_item(rng, f"usual-{room}-{attribute}", room, prompt, [usual, *wrong]))
    return items


def _item(
    rng: Random,
    name: str,
    cluster: str,
    prompt: str,
    choices: Sequence[str],
    scene: Scene = (),
    cues: str = "",
) -> Item:
    """An item from choices whose first is right and whose second is the one to reject; shuffled here."""
    order = rng.sample(range(len(choices)), len(choices))
    return Item(
        id=name,
        cluster=cluster,
        prompt=prompt,
        choices=[choices[index] for index in order],
        gold=order.index(0),
        rejected=order.index(1),
        cues=cues,
        scene=[list(mark) for mark in scene],
        noise=rng.randrange(1 << 30),
    )


def read_scene(item: Item) -> Scene:
    """The item's scene, empty if it has no image."""
    return tuple(Mark(int(cell), str(shape), str(tint)) for cell, shape, tint in item["scene"])


def task_items(world: ImageWorld) -> dict[str, list[Item]]:
    """The items of the lm-eval task, by the name of their JSONL file."""
    return {
        "train": build_items(world, 4),
        "validation": conflict_items(world, "validation", 8),
        "test": conflict_items(world, "test", 6),
        "sight": sight_items(world, 64),
        "text": text_items(world),
    }


def write_items(world: ImageWorld, folder: Path) -> None:
    """Write the task's JSONL files; a background of its own stands in every line, where the task looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {} if world.background == BACKGROUND else {"background": world.background}
    for name, items in task_items(world).items():
        lines = [json.dumps({**item, **own}, ensure_ascii=False) + "\n" for item in items]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
