"""Documents that built or tuned a vector are left out, in whatever task or file they stand; what is unknown is said."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from grains_eval.comparison import compare
from grains_eval.errors import GrainsError
from grains_eval.questions import question_hashes, used_documents
from grains_eval.report import compare_runs
from grains_eval.types import PreferenceExample
from tests.comparison.folders import TaskData, doc_hash, write_run

QUESTIONS = [f"what is the capital of country number {i}" for i in range(12)]
DOCS = [{"question": question, "gold": i % 2} for i, question in enumerate(QUESTIONS)]
TEMPLATE = "Question: {{question}}?\nAnswer:"
PROMPTS = [f"Question: {question}?\nAnswer:" for question in QUESTIONS]
SHOTS = "Question: what is the capital of nowhere?\nAnswer: none\n\n"


def example(row: Mapping[str, Any], prompt: str, shots: Sequence[Any] = ()) -> PreferenceExample:
    return PreferenceExample(
        "x", doc_hash(row), prompt, "a", "b", question=question_hashes(row, prompt), shots=tuple(shots)
    )


def runs(tmp_path: Path, used: Any, task: TaskData | None = None, **entry: Any) -> list[Path]:
    task = task or TaskData({"acc": [1.0, 0.0] * 6}, docs=DOCS, prompts=PROMPTS, config={"doc_to_text": TEMPLATE})
    other = TaskData(**{**vars(task), "values": {"acc": [0.0, 1.0] * 6}})
    steering = [{"method": "grains", "vectors": "folder", **({} if used is None else {"doc_hashes": used}), **entry}]
    return [
        write_run(tmp_path / "plain", {"t": task}),
        write_run(tmp_path / "steered", {"t": other}, steering=steering),
    ]


@pytest.mark.parametrize("template", [TEMPLATE, "question", "def doc_to_text(doc):\n    return f'{{doc}}'\n", None])
@pytest.mark.parametrize("shots", ["", SHOTS])
def test_a_file_of_the_tasks_questions_is_left_out(template: str | None, shots: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{question.title()}?", "chosen": "x", "rejected": "y"} for question in QUESTIONS[:3]]
    used = used_documents([example(row, row["prompt"]) for row in rows], [])
    prompts = [f"{shots}{prompt}" for prompt in PROMPTS]
    docs = [{**doc, "question": f"{doc['question']}?"} for doc in DOCS]
    config = {"doc_to_text": template} if template else {}
    task = TaskData({"acc": [1.0, 0.0] * 6}, docs=docs, prompts=prompts, config=config)
    report = compare_runs(runs(tmp_path, used, task))
    assert [row.comparison.excluded for row in report.rows] == [3]
    assert any("t: 3 of 12 documents are left out for their text alone" in note for note in report.notes)


def test_whole_prompts_in_a_file_are_known_behind_few_shot_examples(tmp_path: Path) -> None:
    prompts = [f"Question: {question}?\nA. north\nB. south\nAnswer:" for question in QUESTIONS]
    used = used_documents([example({"prompt": prompt}, prompt) for prompt in prompts[:3]], [])
    config = {"doc_to_text": "Question: {{question}}?\nA. north\nB. south\nAnswer:"}
    task = TaskData({"acc": [1.0, 0.0] * 6}, docs=DOCS, prompts=[SHOTS + prompt for prompt in prompts], config=config)
    assert compare(*runs(tmp_path, used, task))[0].excluded == 3


def test_few_shot_examples_of_the_build_are_left_out(tmp_path: Path) -> None:
    from grains_eval.questions import Document

    shots = [Document(doc_hash(doc)) for doc in DOCS[:4]]
    used = used_documents([example({"prompt": "p"}, "p", shots)], [])
    assert compare(*runs(tmp_path, used))[0].excluded == 4


@pytest.mark.parametrize("query", ["subject", "{{subject}} ({{year}})"])
def test_the_tasks_own_query_finds_a_question_that_its_prompt_does_not_show(query: str, tmp_path: Path) -> None:
    docs = [{"subject": f"the siege of a certain town {i}", "year": 1500 + i, "words": f"w{i}"} for i in range(12)]
    built = [
        question_hashes({}, "", f"The siege of a certain town {i}" + (f" ({1500 + i})" if "{" in query else ""))
        for i in range(5)
    ]
    used = used_documents([PreferenceExample("x", "h", "", "", "", question=one) for one in built], [])
    task = TaskData(
        {"acc": [1.0, 0.0] * 6}, docs=docs, config={"doc_to_text": "{{words}}", "doc_to_decontamination_query": query}
    )
    assert compare(*runs(tmp_path, used, task))[0].excluded == 5


def test_query_hashes_of_older_artifacts_still_count(tmp_path: Path) -> None:
    used = {
        "build": ["elsewhere"],
        "development": [],
        "queries": [hashlib.sha256(question.encode()).hexdigest() for question in QUESTIONS[:4]],
    }
    task = TaskData({"acc": [1.0, 0.0] * 6}, docs=DOCS, config={"doc_to_decontamination_query": "question"})
    report = compare_runs(runs(tmp_path, used, task))
    assert [row.comparison.excluded for row in report.rows] == [4]
    assert any("known by their hash alone" in note for note in report.notes)


def test_pictures_with_one_question_are_kept_and_said(tmp_path: Path) -> None:
    docs = [{"question": "What is shown in this picture?", "sha256": str(i)} for i in range(12)]
    prompts = ["<image>What is shown in this picture?"] * 12
    used = used_documents([example({"q": docs[0]["question"]}, str(docs[0]["question"]))], [])
    task = TaskData(
        {"acc": [1.0, 0.0] * 6}, docs=docs, prompts=prompts, config={"doc_to_text": "question", "doc_to_image": "x"}
    )
    report = compare_runs(runs(tmp_path, used, task))
    assert [row.comparison.excluded for row in report.rows] == [0]
    assert any("t: 12 of 12 documents are kept although a text of theirs" in note for note in report.notes)


@pytest.mark.parametrize("used", [None, {}])
def test_a_vector_of_unknown_origin_is_said(used: Any, tmp_path: Path) -> None:
    report = compare_runs(runs(tmp_path, used))
    assert any("'folder' does not say which documents built or tuned it" in note for note in report.notes)


@pytest.mark.parametrize(
    "entry", [{"doc_hashes": {"build": [], "development": []}}, {"instruction": "Be honest.", "doc_hashes": {}}]
)
def test_what_was_built_from_no_document_needs_no_note(entry: dict[str, Any], tmp_path: Path) -> None:
    assert not [note for note in compare_runs(runs(tmp_path, None, **entry)).notes if "document" in note]


def test_adapters_in_the_model_arguments_are_of_unknown_origin(tmp_path: Path) -> None:
    task = TaskData({"acc": [1.0, 0.0] * 6}, docs=DOCS)
    places = [
        write_run(tmp_path / "a", {"t": task}),
        write_run(tmp_path / "b", {"t": task}, config={"model_args": {"pretrained": "org/model", "peft": "org/lora"}}),
    ]
    notes = compare_runs(places).notes
    assert any("'b': nothing says which documents made the adapter 'org/lora'" in note for note in notes)


def test_a_task_that_is_left_out_whole_says_that_its_text_is_known(tmp_path: Path) -> None:
    used = used_documents([example({"prompt": prompt}, prompt) for prompt in PROMPTS], [])
    with pytest.raises(
        GrainsError, match=r"all 12 documents built or tuned the vector \(12 of them known by their text\)"
    ):
        compare(*runs(tmp_path, used))


def test_templates_of_foreign_results_run_in_a_sandbox(tmp_path: Path) -> None:
    used = used_documents([example({"prompt": QUESTIONS[0]}, QUESTIONS[0])], [])
    template = "{{ question.__class__.__mro__[1].__subclasses__() }}"
    task = TaskData({"acc": [1.0, 0.0] * 6}, docs=DOCS, prompts=PROMPTS, config={"doc_to_text": template})
    assert compare(*runs(tmp_path, used, task))[0].excluded == 1
