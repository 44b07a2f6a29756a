"""Preference examples from any multiple-choice task of the harness, through the task object."""

from __future__ import annotations

import json

import pytest
import yaml

from grains_eval.errors import GrainsError
from grains_eval.preferences import doc_hash, load_examples, load_task
from grains_eval.questions import question_hashes
from grains_eval.recipes import parse_recipe
from tests.instances import HARNESS, made_by

TASK = {
    "task": "test_capitals",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "training_split": "train",
    "test_split": "test",
    "doc_to_text": "Question: {{q}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}],
    "metadata": {"version": 1.0, "cluster_key": "region"},
}


@pytest.fixture
def tasks(tmp_path):
    def make(**changes):
        rows = [
            {
                "q": f"capital {i}",
                "choices": [f"no{i}", f"yes{i}", f"not{i}"],
                "gold": 1,
                "worse": 2,
                "region": f"r{i % 2}",
            }
            for i in range(12)
        ]
        for split in ("train", "test"):
            text = "".join(json.dumps({**row, "split": split}) + "\n" for row in rows)
            (tmp_path / f"{split}.jsonl").write_text(text)
        files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
        config = {**TASK, "dataset_kwargs": {"data_files": files}, **changes}
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(config))
        return [str(tmp_path)]

    return make


def data(**keys):
    return parse_recipe({"name": "x", "data": {"task": "test_capitals", "examples": 5, "development": 4, **keys}}).data


def test_prompt_and_responses_are_those_that_the_task_scores(tasks):
    include = tasks()
    found = load_examples(data(), include_path=include)
    if len(include) == 1:
        assert load_examples(data(), include_path=include[0]).build == found.build
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
    found = load_examples(data(split="train", development_split="test"), include_path=include)
    test = {row["q"] for row in load_task("test_capitals", include).test_docs()}
    assert all(example.prompt[len("Question: ") :].split("\n")[0] in test for example in found.development)
    with pytest.raises(GrainsError, match="unknown split of task 'test_capitals' 'validation': known are test, train"):
        load_examples(data(split="validation"), include_path=include)


def test_the_rejected_choice_by_field_template_or_text(tasks):
    include = tasks()
    for rejected in ("worse", "{{2}}", "{{choices[2]}}"):
        example = load_examples(data(rejected=rejected), include_path=include).build[0]
        assert example.rejected.startswith(" not")
    with pytest.raises(GrainsError, match="gives '1', which is no wrong choice"):
        load_examples(data(rejected="gold"), include_path=include)


def test_chat_templates_are_rendered_from_messages(tasks, loaded_text):
    loaded = loaded_text("qwen2")
    example = load_examples(data(chat_template=True), loaded, tasks()).build[0]
    assert [message.role for message in example.prompt] == ["user"]
    assert example.chosen.startswith("yes"), "the harness drops the delimiter after a chat template"
    with pytest.raises(GrainsError, match="needs a model"):
        load_examples(data(chat_template=True), include_path=tasks())


def test_template_tokens_are_no_candidates(tasks, loaded_text):
    from grains_eval.models import encode

    loaded = loaded_text("qwen2")
    encoded = encode(loaded, load_examples(data(chat_template=True), loaded, tasks()).build[0])
    content = loaded.tokenizer.decode(encoded.input_ids[encoded.is_candidate])
    assert content.startswith("Question: capital")
    assert content.endswith("Answer:")
    assert "user" in loaded.tokenizer.decode(encoded.input_ids[~encoded.is_candidate])


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
        load_examples(data(), include_path=include)
    assert "\n" not in str(caught.value)


def test_unknown_tasks_and_groups():
    with pytest.raises(GrainsError, match="unknown task 'truthfulqa_mc': did you mean truthfulqa_mc"):
        load_task("truthfulqa_mc")
    with pytest.raises(GrainsError, match="is a group of tasks"):
        load_task("mmlu")


@pytest.mark.parametrize("query", ["which {{q}} is meant?", "{{'which ' ~ q}} is meant?"])
def test_a_question_is_known_in_another_task_by_its_decontamination_query(tasks, query):
    include = tasks(should_decontaminate=True, doc_to_decontamination_query=query)
    found = load_examples(data(), include_path=include)
    asked = [e.prompt[len("Question: ") :].split("\n")[0] for e in (*found.build, *found.development)]
    expected = {one for text in asked for one in question_hashes({}, "", f"which {text} is meant?").wholes}
    assert len(expected) == 9
    assert expected <= set(found.doc_hashes()["questions"])
    assert not expected & set(load_examples(data(), include_path=tasks()).doc_hashes().get("questions", []))


def test_few_shot_examples_are_recorded_with_their_answers_document(tasks):
    """Without a split of their own they come from the documents that are evaluated."""
    include = tasks(training_split=None)
    found = load_examples(data(num_fewshot=3), include_path=include)
    docs = list(load_task("test_capitals", include).test_docs())
    shown = {doc_hash(doc) for doc in docs for e in found.build if f"Question: {doc['q']}\nAnswer: yes" in e.prompt}
    assert len(shown) > 3
    used = found.doc_hashes()
    tuned = {doc_hash(doc) for doc in docs for e in found.development if f"{doc['q']}\nAnswer: yes" in e.prompt}
    assert set(used["shots"]) == shown | tuned
    assert all(len(example.shots) == 3 for example in (*found.build, *found.development))
    again = load_examples(data(num_fewshot=3), include_path=include)
    assert [e.prompt for e in again.build] == [e.prompt for e in found.build]


def test_no_document_is_its_own_few_shot_example(tasks):
    found = load_examples(data(examples=12, development=0, num_fewshot=11), include_path=tasks())
    assert all(example.doc_hash not in {shot.doc_hash for shot in example.shots} for example in found.build)
    with pytest.raises(GrainsError, match="too few documents for 12 few-shot examples; lower"):
        load_examples(data(examples=12, development=0, num_fewshot=12), include_path=tasks())


def test_a_document_without_a_gold_choice_is_named(tasks):
    with pytest.raises(GrainsError, match=r"task 'test_capitals': .*document.* no gold choice"):
        load_examples(data(), include_path=tasks(doc_to_target="{{'maybe'}}"))
