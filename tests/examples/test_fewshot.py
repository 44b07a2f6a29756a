"""Few-shot examples are recorded, and a question is known by what its task shows of it."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.examples import doc_hash, load_examples, load_task
from grains_eval.questions import question_hashes
from tests.examples.sources import task_data


def test_few_shot_examples_are_recorded_with_their_answers_document(tasks):
    """Without a split of their own they come from the documents that are evaluated."""
    include = tasks(training_split=None)
    found = load_examples(task_data(num_fewshot=3), include_path=include)
    docs = list(load_task("test_capitals", include).test_docs())
    shown = {doc_hash(doc) for doc in docs for e in found.build if f"Question: {doc['q']}\nAnswer: yes" in e.prompt}
    assert len(shown) > 3
    used = found.doc_hashes()
    tuned = {doc_hash(doc) for doc in docs for e in found.development if f"{doc['q']}\nAnswer: yes" in e.prompt}
    assert set(used["shots"]) == shown | tuned
    assert all(len(example.shots) == 3 for example in (*found.build, *found.development))
    again = load_examples(task_data(num_fewshot=3), include_path=include)
    assert [e.prompt for e in again.build] == [e.prompt for e in found.build]


def test_no_document_is_its_own_few_shot_example(tasks):
    found = load_examples(task_data(examples=12, development=0, num_fewshot=11), include_path=tasks())
    assert all(example.doc_hash not in {shot.doc_hash for shot in example.shots} for example in found.build)
    with pytest.raises(GrainsError, match="too few documents for 12 few-shot examples; lower"):
        load_examples(task_data(examples=12, development=0, num_fewshot=12), include_path=tasks())


@pytest.mark.parametrize("query", ["which {{q}} is meant?", "{{'which ' ~ q}} is meant?"])
def test_a_question_is_known_in_another_task_by_its_decontamination_query(tasks, query):
    include = tasks(should_decontaminate=True, doc_to_decontamination_query=query)
    found = load_examples(task_data(), include_path=include)
    asked = [e.prompt[len("Question: ") :].split("\n")[0] for e in (*found.build, *found.development)]
    expected = {one for text in asked for one in question_hashes({}, "", f"which {text} is meant?").wholes}
    assert len(expected) == 9
    assert expected <= set(found.doc_hashes()["questions"])
    assert not expected & set(load_examples(task_data(), include_path=tasks()).doc_hashes().get("questions", []))
