"""When two documents are the same question, and when only one of their texts is the same."""

from __future__ import annotations

import pytest

from grains_eval.questions import Document, QuestionHashes, hidden_hashes, normalise, question_hashes, recognise
from grains_eval.questions import used_documents as used
from grains_eval.types import PreferenceExample

TEMPLATE = "Question: {}\nAnswer:"


def hidden(question: QuestionHashes) -> frozenset[str]:
    example = PreferenceExample("x", "built", "", "", "", question=question, shots=(Document("shot"),))
    return hidden_hashes(used([example], []))


def knows(built: QuestionHashes, *evaluated: QuestionHashes, has_images: bool = False) -> list[bool]:
    hashes = [[f"document {index}"] for index in range(len(evaluated))]
    return list(recognise(hidden(built), hashes, lambda index: evaluated[index], has_images).by_text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of Peru?", "Question:  what is the\ncapital of Peru?\nAnswer:"),
        ("Q: Who’s there?\nA:", "who's there?"),
        ("Question 12: “Why” is it so?", '"why" is it so?'),
        ("question : what is it ? answer :", "What is it ?"),
    ],
)
def test_one_question_in_two_forms_is_one_text(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"), [("What is 3 + 4?", "What is 3 * 4?"), ("x² = 4", "x2 = 4"), ("a: b", "b"), ("-1.5", "1.5")]
)
def test_signs_and_digits_tell_questions_apart(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def test_a_file_of_a_tasks_questions_is_known_in_the_task_and_back() -> None:
    question = "Which planet has the most moons?"
    doc = {"question": question, "choices": ["Saturn", "Venus"], "label": "A", "subject": "astronomy"}
    shown = TEMPLATE.format(f"{question}\nA. Saturn\nB. Venus")
    task = question_hashes(doc, shown)
    bare = question_hashes({"prompt": question, "chosen": "Saturn", "rejected": "Venus"}, question)
    whole = question_hashes({"prompt": shown, "chosen": "A", "rejected": "B"}, shown)
    other = question_hashes({"prompt": "Which planet has the fewest moons?"}, "Which planet has the fewest moons?")
    assert knows(bare, task) == knows(task, bare) == knows(whole, task) == knows(task, whole) == [True]
    assert knows(other, task) == knows(task, other) == [False]


def test_one_question_with_another_context_is_another_question() -> None:
    question = "Who wrote the letter to the king?"
    one, other = (
        question_hashes({"context": context, "question": question}, TEMPLATE.format(f"{context}\n{question}"))
        for context in ("The duke wrote to the king.", "The bishop wrote a letter, and sent it.")
    )
    assert knows(one, other) == [False]
    assert knows(one, one) == [True]


def test_a_text_that_several_documents_share_names_none_of_them() -> None:
    question = "Which of the following is true?"
    stem = question_hashes({"prompt": question}, question)
    docs = [
        question_hashes({"q": question, "c": choice}, TEMPLATE.format(f"{question}\nA. {choice}"))
        for choice in ("water is wet", "fire is cold")
    ]
    assert knows(stem, docs[0]) == [True]
    hashes = [["one"], ["two"], ["two"]]
    found = recognise(hidden(stem), hashes, lambda index: [*docs, docs[1]][index])
    assert (found.by_text, found.shared) == ((False,) * 3, (True,) * 3)
    # the same document twice is one document
    assert recognise(hidden(stem), [["two"], ["two"]], lambda _: docs[1]).by_text == (True, True)


def test_a_prompt_with_pictures_names_a_document_only_where_no_other_has_it() -> None:
    shown = "What is shown in this picture?"
    one, other = (
        question_hashes({"q": shown}, shown),
        question_hashes({"q": "And where was it taken?"}, "And where was it taken?"),
    )
    assert knows(one, one, other, has_images=True) == [True, False]
    assert knows(one, one, one, has_images=True) == [False, False]
    assert knows(one, one, one) == [True, True], "the same prompt word for word, with nothing else to tell them apart"


def test_a_prompt_that_is_the_same_for_every_document_names_none() -> None:
    constant = "Which of these two sentences is grammatical?"
    docs = [question_hashes({"good": f"the cat {word} here", "bad": word}, constant) for word in ("sits", "sleeps")]
    assert knows(docs[0], *docs) == [False, False]


def test_short_texts_name_nothing() -> None:
    assert question_hashes({"q": "True or False?"}, "True or False?") == QuestionHashes()


def test_document_hashes_and_those_of_texts_do_not_mix() -> None:
    question = question_hashes({"q": "What is the capital of Peru?"}, "What is the capital of Peru?")
    known = hidden(question)
    assert {"built", "shot"} <= known
    assert not known & question.prompt, "a text's hash carries a mark"
    by_hash = recognise(known, [["shot"], ["x"]], lambda _: question)
    assert (by_hash.by_hash, by_hash.by_text) == ((True, False), (False, True))
