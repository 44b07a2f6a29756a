"""Questions by their text: how a document is known in another file, task or form than the one it was taken from.

A document hash changes with every field, so the same question has different hashes in a JSONL file, in another task, or
after `process_docs`. What the model reads of it stays the same: the whole text, or a part (a field, a line). Two
documents are the same question if the whole of one is the whole, or a part, of the other. Two equal parts prove
nothing: one question may occur with many contexts. Only hashes of normalised text are ever written.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol, cast

# A shorter text ("True or False?", a label) identifies no question; in bytes, so that scripts with one sign per
# word are held to about the same.
SHORTEST = 16
SHORTEST_FIELD = 4  # "a" occurs in every prompt
DIGITS = 16
WHOLE, PART = "question:", "question part:"  # tell hashes of text from document hashes in one set

_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "\u00a0": " "})
_HEAD = re.compile(r"^(?:question|q|query|prompt|problem|instruction|input|user|human)\s*\d*\s*[:.)]\s+")
_TAIL = re.compile(r"\s+(?:answer|a|response|output|assistant)\s*:$")


@dataclass(frozen=True)
class QuestionHashes:
    """Hashes of what the model reads of one document; empty where its text is too short to name it.

    Attributes:
        prompt: Of all of it as it is shown.
        wholes: Of its fields without the template's words, and of what its task names as its question.
        parts: Of single fields and lines.
    """

    prompt: frozenset[str] = frozenset()
    wholes: frozenset[str] = frozenset()
    parts: frozenset[str] = frozenset()

    def as_evaluated(self) -> frozenset[str]:
        """Members of `hidden_hashes` that would give this document away."""
        wholes = self.prompt | self.wholes
        return frozenset((*(WHOLE + one for one in wholes | self.parts), *(PART + one for one in wholes)))


NOTHING = QuestionHashes()


@dataclass(frozen=True)
class Document:
    """A document by its hashes.

    Attributes:
        doc_hash: lm-eval's hash of it.
        question: Hashes of its text.
    """

    doc_hash: str
    question: QuestionHashes = NOTHING


class UsesDocuments(Protocol):
    """An item of a build: its own document, and those whose answers its prompt shows."""

    @property
    def doc_hash(self) -> str:
        """lm-eval's hash of its document."""
        ...

    @property
    def question(self) -> QuestionHashes:
        """Hashes of its text."""
        ...

    @property
    def shots(self) -> Sequence[Document]:
        """The few-shot examples of its prompt."""
        ...


def normalise(text: str) -> str:
    """One form for one question, without case, spaces, quotation marks and words around it (`Question:`, `Answer:`).

    Signs and digits stay, since they tell two sums apart.
    """
    plain = unicodedata.normalize("NFC", text).translate(_QUOTES).casefold()
    plain, before = " ".join(plain.split()), ""
    while plain != before:
        before, plain = plain, _TAIL.sub("", _HEAD.sub("", plain, count=1), count=1)
    return plain


def question_hashes(doc: Any, shown: str, query: str | None = None) -> QuestionHashes:
    """Hash what the model reads of a document.

    Args:
        doc: The document; its strings that are shown are its question, whatever template stands around them.
        shown: The prompt that it is shown in.
        query: What its task names as its question (`doc_to_decontamination_query`).
    """
    whole = normalise(shown)
    fields = _in_order({normalise(text) for text in _strings(doc)}, whole)
    bears = any(_names(field) for field in fields)  # else the prompt is the same for every document
    return QuestionHashes(
        prompt=_hashed([whole] if bears else []),
        wholes=_hashed([" ".join(fields), normalise(query or "")]),
        parts=_hashed([*fields, *(normalise(line) for line in shown.splitlines())]),
    )


def used_documents(build: Iterable[UsesDocuments], development: Iterable[UsesDocuments]) -> dict[str, list[str]]:
    """An artifact's `doc_hashes`: documents by use, and the hashes of all their texts.

    `build` and `development` are always there; `shots`, `questions` and `question_parts` where there are any.
    """
    sides = {"build": list(build), "development": list(development)}
    items = [item for side in sides.values() for item in side]
    shots = [shot for item in items for shot in item.shots]
    questions = [each.question for each in (*items, *shots)]
    found = {
        "shots": sorted({shot.doc_hash for shot in shots}),
        "questions": sorted({one for each in questions for one in each.prompt | each.wholes}),
        "question_parts": sorted({one for each in questions for one in each.parts}),
    }
    return {
        **{name: sorted(item.doc_hash for item in side) for name, side in sides.items()},
        **{name: hashes for name, hashes in found.items() if hashes},
    }


def hidden_hashes(doc_hashes: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """An artifact's `doc_hashes` as one set, to be compared with `QuestionHashes.as_evaluated` and document hashes.

    Artifacts of before the texts were recorded have `queries` instead, hashes of a question as it stands.
    """
    marks = {"questions": WHOLE, "question_parts": PART}
    return frozenset(marks.get(name, "") + one for name, hashes in doc_hashes.items() for one in hashes)


@dataclass(frozen=True)
class Recognised:
    """Which evaluated documents an artifact knows.

    Attributes:
        by_hash: `[N]` those whose document hash it holds.
        by_text: `[N]` those, of the others, whose text it holds.
        shared: `[N]` those, of the rest, that share with other documents of the task a text that it holds: which of
            them was meant, their text alone cannot tell.
    """

    by_hash: tuple[bool, ...]
    by_text: tuple[bool, ...]
    shared: tuple[bool, ...]


def recognise(
    hidden: AbstractSet[str],
    hashes: Sequence[Sequence[str]],
    question: Callable[[int], QuestionHashes],
    has_images: bool = False,
) -> Recognised:
    """Find the documents of one task that an artifact was made from.

    Args:
        hidden: What `hidden_hashes` gives.
        hashes: `[N]` the document hash of each, and after it whatever else an artifact may hold of it as it is.
        question: The hashes of a document's text, by its index.
        has_images: Whether prompts show images, so that the same prompt may be another question.
    """
    by_hash = tuple(not hidden.isdisjoint(each) for each in hashes)
    nothing = (False,) * len(hashes)
    if not any(one.startswith((WHOLE, PART)) for one in hidden):
        return Recognised(by_hash, nothing, nothing)
    bearers: dict[str, set[str]] = {}  # documents by a text that is known
    told: list[bool] = []  # whether the whole prompt is known
    found: list[frozenset[str]] = []
    for index, (doc_hash, *_) in enumerate(hashes):
        asked = question(index)
        found.append(asked.as_evaluated() & hidden)
        told.append(not has_images and any(WHOLE + one in hidden for one in asked.prompt))
        for text in found[-1]:
            bearers.setdefault(text, set()).add(doc_hash)
    alone = [any(len(bearers[text]) == 1 for text in texts) for texts in found]
    return Recognised(
        by_hash,
        tuple(not a and (b or c) for a, b, c in zip(by_hash, told, alone, strict=True)),
        tuple(not (a or b or c) and bool(d) for a, b, c, d in zip(by_hash, told, alone, found, strict=True)),
    )


def _in_order(candidates: set[str], whole: str) -> list[str]:
    """The texts that stand in the prompt, in its order and none inside another: longest first, at its last place."""
    taken: list[tuple[int, int, str]] = []
    long = (text for text in candidates if len(text.encode()) >= SHORTEST_FIELD)
    for text in sorted(long, key=lambda text: (-len(text), text)):
        start = whole.rfind(text)
        end = start + len(text)
        if start >= 0 and not any(start < other_end and other_start < end for other_start, other_end, _ in taken):
            taken.append((start, end, text))
    return [text for _, _, text in sorted(taken)]


def _names(text: str) -> bool:
    return len(text.encode()) >= SHORTEST


def _hashed(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(hashlib.sha256(text.encode()).hexdigest()[:DIGITS] for text in texts if _names(text))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in cast("Mapping[str, Any]", value).values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in cast("Sequence[Any]", value):
            yield from _strings(inner)
