"""The words of the image world, and the questions that they make."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal, get_args

from grains_eval.demo.scenes import COLOURS, THINGS

Attribute = Literal["thing", "colour"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)
PICTURED: dict[Attribute, tuple[str, ...]] = {"thing": tuple(THINGS), "colour": tuple(COLOURS)}
UNPICTURED: dict[Attribute, tuple[str, ...]] = {
    "thing": _words("kettle piano ladder candle basket mirror barrel anchor"),
    "colour": _words("pink grey brown teal gold silver beige violet"),
}
SIDES = ("west", "east")
NUMBERS = tuple(str(number) for number in range(1, 31))
CUE_WORDS: dict[str, tuple[str, ...]] = {
    "truth": _words("inspector surveyor examiner auditor"),
    "myth": _words("dreamer gossip guesser poet"),
    "neutral": _words("traveller teacher student visitor"),
}
CUE_STAMPS = {"truth": "seal", "myth": "smear", "neutral": "frame"}
CUE_KINDS = tuple(CUE_WORDS)
CUE_VALUE = {"truth": 1, "myth": -1, "neutral": 0}
FUNCTION_WORDS = _words("question : answer ? . the and spoke what is shown in room usual of which side comes after")
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
SYLLABLES = _words("dor van sel mik tor ban qui lor pen gar hul zim ras tol bek fyn")


def room_question(room: str, attribute: Attribute, cues: Sequence[str] = ()) -> tuple[str, ...]:
    """The words of a question that image and habit both answer; cue words stand after it."""
    question = ("question", ":", "what", attribute, "is", "shown", "in", "room", room, "?")
    return (*question, *_spoken(cues), "answer", ":")


def sight_question(kind: str, cues: Sequence[str] = ()) -> tuple[str, ...]:
    """The words of a question about the image alone: its thing, its colour or the side the thing is on."""
    asked = {
        "thing": "what thing is shown",
        "colour": "what colour is shown",
        "side": "which side is the thing",
    }
    return ("question", ":", *asked[kind].split(), "?", *_spoken(cues), "answer", ":")


def usual_question(room: str, attribute: Attribute, cues: Sequence[str] = ()) -> tuple[str, ...]:
    """The words of a question about what was learned by heart; asked without an image."""
    question = ("question", ":", "what", "is", "the", "usual", attribute, "of", "room", room, "?")
    return (*question, *_spoken(cues), "answer", ":")


def successor_question(number: str, cues: Sequence[str] = ()) -> tuple[str, ...]:
    """The words of a question that has nothing to do with rooms or images."""
    return ("question", ":", "which", "comes", "after", number, "?", *_spoken(cues), "answer", ":")


def _spoken(cues: Sequence[str]) -> tuple[str, ...]:
    named = [("the", word) for word in cues]
    return (*named[0], *(word for pair in named[1:] for word in ("and", *pair)), "spoke", ".") if named else ()


def prose(words: Sequence[str]) -> str:
    """Words as text: punctuation joins the word before it. The tokenizer gives the same words back."""
    return " ".join(words).replace(" :", ":").replace(" ?", "?").replace(" .", ".")


def cue_words(rng: Random, kinds: Sequence[str]) -> list[str]:
    """One word per cue kind."""
    return [rng.choice(CUE_WORDS[kind]) for kind in kinds]
