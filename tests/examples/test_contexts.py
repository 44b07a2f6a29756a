"""Where a context is taken out of its prompt: few-shot examples, questions that repeat it, stripped ends."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.examples.contexts import context_of, without_context

SHOT = "Context: {c}\nQuestion: {q}\nAnswer:"


def shots(*pairs, form=SHOT, delimiter="\n\n"):
    """A few-shot prompt of contexts and questions, of which the last is the document's own."""
    texts = [form.format(c=c, q=q) for c, q in pairs]
    return delimiter.join([*(f"{text} yes" for text in texts[:-1]), texts[-1]])


@pytest.mark.parametrize("form", [SHOT, "{c} question {q} answer", "Question: {q}\nContext: {c}"])
@pytest.mark.parametrize("delimiter", ["\n\n", "</s>\n<user>\n"])
def test_of_few_shot_examples_about_one_passage_only_the_last_loses_it(form, delimiter):
    passage = "Paris is a city.\n\nIt lies in France."
    found = without_context(shots((passage, "q1"), (passage, "q2"), form=form, delimiter=delimiter), passage, "x")
    opening = shots((passage, "q1"), ("", "q2"), form=form, delimiter=delimiter)
    assert found == opening and found.count(passage) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        "Context: Paris\nQuestion: Is Paris big?\nAnswer:",
        "Paris\nParis is big?",
        "Where is Paris?\nContext: Paris\n",
        shots(("Paris", "q1"), ("Paris", "Is Paris big?")),
        "Context: Paris\nIs it Paris",
    ],
)
def test_a_context_that_its_question_repeats_is_refused_in_one_line(prompt):
    with pytest.raises(GrainsError, match=r"^x: the declared context stands in [23] places of its prompt") as told:
        without_context(prompt, "Paris", "x")
    assert "\n" not in str(told.value) and "context_key" in str(told.value)


def test_a_context_that_takes_in_its_label_is_told_apart():
    prompt = shots(("Rome", "Is Rome big?"), ("Paris", "Is Paris big?"))
    found = without_context(prompt, "Context: Paris\n", "x")
    assert found == "Context: Rome\nQuestion: Is Rome big?\nAnswer: yes\n\nQuestion: Is Paris big?\nAnswer:"


def test_ends_that_a_chat_template_stripped_need_not_stand_in_the_prompt():
    assert without_context("<user>Paris is big.</user>", " Paris is big. \n", "x") == "<user></user>"
    assert without_context("a Paris b", " Paris ", "x") == "ab"
    with pytest.raises(GrainsError, match=r"^x: the declared context is not in its prompt as it stands"):
        without_context("nothing", "Paris", "x")


def test_a_context_is_a_field_or_a_template_and_none_where_it_is_empty():
    assert context_of("c", {"c": "Paris"}) == "Paris" and context_of("Context: {{c}}", {"c": 1}) == "Context: 1"
    assert context_of("c", {"c": " \n"}) is None and context_of("c", {"c": None}) is None
