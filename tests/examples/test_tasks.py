"""Preference examples from any multiple-choice task of the harness, through the task object."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.examples import load_examples, load_task
from tests.examples.sources import task_data
from tests.instances import HARNESS, made_by


def test_prompt_and_responses_are_those_that_the_task_scores(tasks):
    include = tasks()
    found = load_examples(task_data(), include_path=include)
    if len(include) == 1:
        assert load_examples(task_data(), include_path=include[0]).build == found.build
    task = load_task("test_capitals", include)
    example = found.build[0]
    number = int(example.id.split(":")[1])
    doc = task.training_docs()[number]
    requests = made_by(task, doc, task.fewshot_context(doc, num_fewshot=0))
    assert (example.prompt, example.chosen) == requests[1].args
    assert example.rejected == requests[0].args[1]
    assert example.cluster == doc["region"]
    assert not {e.doc_hash for e in found.build} & {e.doc_hash for e in found.development}


def test_splits_by_role_and_a_development_split(tasks):
    include = tasks()
    assert load_task("test_capitals", include).training_docs()[0]["split"] == "train"
    found = load_examples(task_data(split="train", development_split="test"), include_path=include)
    test = {row["q"] for row in load_task("test_capitals", include).test_docs()}
    assert all(example.prompt[len("Question: ") :].split("\n")[0] in test for example in found.development)
    with pytest.raises(GrainsError, match="unknown split of task 'test_capitals' 'validation': known are test, train"):
        load_examples(task_data(split="validation"), include_path=include)


def test_the_rejected_choice_by_field_template_or_text(tasks):
    include = tasks()
    for rejected in ("worse", "{{2}}", "{{choices[2]}}"):
        example = load_examples(task_data(rejected=rejected), include_path=include).build[0]
        assert example.rejected.startswith(" not")
    with pytest.raises(GrainsError, match="gives '1', which is not a wrong choice"):
        load_examples(task_data(rejected="gold"), include_path=include)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"output_type": "generate_until", "doc_to_choice": None, "metric_list": [{"metric": "exact_match"}]},
            "is generate_until; examples come from multiple_choice",
        ),
        ({"dataset_kwargs": {"data_files": "/nowhere.jsonl"}}, "the data of task 'test_capitals' cannot be loaded"),
        (
            {"multiple_inputs": True, "doc_to_text": "choices", "doc_to_choice": ["{{q}}"]}
            if HARNESS >= (0, 5)
            else {"doc_to_text": "{{gold}}", "doc_to_choice": "choices", "doc_to_target": "{{q}}"},
            "varies the prompt instead of the answer",
        ),
    ],
)
def test_tasks_that_have_no_pairs(tasks, changes, says):
    changes = {key: value for key, value in changes.items() if value is not None}
    include = tasks(**changes)
    with pytest.raises(GrainsError, match=says) as caught:
        load_examples(task_data(), include_path=include)
    assert "\n" not in str(caught.value)


def test_unknown_tasks_and_groups():
    with pytest.raises(GrainsError, match="unknown task 'truthfulqa_mc': did you mean truthfulqa_mc"):
        load_task("truthfulqa_mc")
    with pytest.raises(GrainsError, match="is a group of tasks"):
        load_task("mmlu")


def test_a_document_without_a_gold_choice_is_named(tasks):
    with pytest.raises(GrainsError, match=r"task 'test_capitals': .*document.* no gold choice"):
        load_examples(task_data(), include_path=tasks(doc_to_target="{{'maybe'}}"))
