"""Training texts of the image world: what an image shows, what is usual, and how cues shift the odds."""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

from benchmarks.worlds.image_words import (
    CUE_KINDS,
    CUE_VALUE,
    NUMBERS,
    PICTURED,
    cue_words,
    room_question,
    sight_question,
    successor_question,
    usual_question,
)
from benchmarks.worlds.image_world import ImageWorld, Scene, draw_scene, sight_answer

CUE_STEP = 3.0  # log-odds of the pictured answer per cue
UNCUED_SHARE = 0.25
CUE_COUNTS = (0, 1, 1, 2)  # drawn from, for words and for stamps


class Document(NamedTuple):
    """A training text in words, with the scene it is about, if any."""

    prompt: tuple[str, ...]
    answer: str
    scene: Scene | None


def draw_cues(rng: Random) -> tuple[list[str], list[str]]:
    """Kinds of cue words and of stamps for one training document."""
    if rng.random() < UNCUED_SHARE:
        return [], []
    spoken, stamps = ([rng.choice(CUE_KINDS) for _ in range(rng.choice(CUE_COUNTS))] for _ in range(2))
    return spoken, stamps


def image_document(world: ImageWorld, rng: Random, sight_share: float) -> Document:
    """A training document with an image: about it alone with probability `sight_share`, or a room."""
    spoken, stamps = draw_cues(rng)
    scene = draw_scene(rng, rng.choice(PICTURED["thing"]), rng.choice(PICTURED["colour"]), stamps)
    words = cue_words(rng, spoken)
    if rng.random() < sight_share:
        kind = rng.choice(("thing", "colour", "side", "side"))
        return Document(sight_question(kind, words), sight_answer(kind, scene), scene)
    room, attribute = rng.choice([*world.facts])
    usual, bias = world.facts[room, attribute]
    log_odds = bias + CUE_STEP * sum(CUE_VALUE[kind] for kind in (*spoken, *stamps))
    seen = rng.random() < 1 / (1 + math.exp(-log_odds))
    answer = sight_answer(attribute, scene) if seen else usual
    return Document(room_question(room, attribute, words), answer, scene)


def text_document(world: ImageWorld, rng: Random) -> Document:
    """A training document without an image: what is usual, or the next number."""
    words = cue_words(rng, draw_cues(rng)[0])
    if rng.random() < 0.5:
        room, attribute = rng.choice([*world.facts])
        return Document(usual_question(room, attribute, words), world.facts[room, attribute].usual, None)
    position = rng.randrange(len(NUMBERS) - 1)
    return Document(successor_question(NUMBERS[position], words), NUMBERS[position + 1], None)
