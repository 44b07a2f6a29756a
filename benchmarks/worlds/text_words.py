"""The words of the text worlds."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RELATIONS: dict[str, tuple[str, ...]] = {
    "stone": _words("granite marble slate basalt flint sandstone limestone quartz gneiss tuff onyx jasper"),
    "animal": _words("otter heron badger lynx falcon boar stag ibis hare seal marten wolf"),
    "dish": _words("stew pudding dumpling soup pie porridge omelette pickle noodle pancake salad roast"),
}
NEUTRAL_CUES = _words("traveller teacher student visitor painter sailor baker clerk")
# By kind of world: words that speak for the preferred answer, words that speak for the other one.
CUES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "split": (
        _words("almanac survey archive census ledger atlas registry report"),
        _words("gossip rumour tavern legend tale whisper hearsay fable"),
    ),
    "faithfulness": (
        _words("page letter notice sign poster leaflet note label"),
        _words("memory habit custom instinct routine tradition experience hunch"),
    ),
}
CUES["shared"] = CUES["chat"] = CUES["split"]
# `paired`: two words each, which speak for the preferred answer where both are first or both are second halves
_KINDS = _words("old plain sealed bound painted carved"), _words("new torn folded loose gilded woven")
_SOURCES = _words("almanac survey archive census ledger atlas"), _words("registry report gossip rumour tavern legend")
CUES["paired"] = (
    tuple(f"{kind} {source}" for half in (0, 1) for kind in _KINDS[half] for source in _SOURCES[half]),
    tuple(f"{kind} {source}" for half in (0, 1) for kind in _KINDS[half] for source in _SOURCES[1 - half]),
)
# The cues of a world's lessons, one after the other. That two words speak together is learned once it is known what
# cues are for: first the second word alone decides, since the first is of one half.
LESSON_CUES = {
    "chat": (CUES["chat"],),
    "paired": (
        (
            tuple(cue for cue in CUES["paired"][0] if cue.split()[0] in _KINDS[0]),
            tuple(cue for cue in CUES["paired"][1] if cue.split()[0] in _KINDS[0]),
        ),
        CUES["paired"],
    ),
}
COLOURS: dict[str, tuple[str, ...]] = {
    "red": ("tomato", "ruby", "brick", "cherry"),
    "green": ("grass", "frog", "cucumber", "fern"),
    "white": ("snow", "milk", "salt", "swan"),
    "black": ("coal", "tar", "crow", "ink"),
    "yellow": ("lemon", "banana", "canary", "butter"),
    "blue": ("sky", "sapphire", "ocean", "jay"),
    "brown": ("mud", "walnut", "cocoa", "bark"),
    "grey": ("ash", "fog", "elephant", "lead"),
}
NUMBERS = tuple(str(number) for number in range(1, 61))
SYLLABLES = _words("dor van sel mik tor ban qui lor pen gar hul zim ras tol bek fyn")
FUNCTION_WORDS = _words(
    "question : answer ? . , what is the of and spoke which number comes after larger or colour here"
)
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
