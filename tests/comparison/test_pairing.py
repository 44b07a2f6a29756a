"""Samples are joined by document, and unlike runs are refused: one clear line each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from grains_eval.comparison import Analysis, compare
from grains_eval.comparison.logs import read_run
from grains_eval.comparison.two_runs import compare_pair
from grains_eval.errors import GrainsError
from tests.comparison.folders import TaskData, bits, doc_hash, runs, write_run


def test_rows_are_joined_by_document_not_by_order(tmp_path: Path) -> None:
    values = bits(30, 0.5, 3)
    first, second = runs(tmp_path, TaskData({"acc": values}), TaskData({"acc": values}))
    file = next((second / "org__model").glob("samples_*"))
    lines = file.read_text().splitlines()
    shuffled = [json.loads(line) for line in reversed(lines)]
    for number, row in enumerate(shuffled):
        row["doc_id"] = number
    file.write_text("\n".join(json.dumps(row) for row in shuffled) + "\n")
    (row,) = compare(first, second)
    assert row.unchanged == 30


def test_duplicate_documents_pair_off(tmp_path: Path) -> None:
    docs = [{"q": "same"}] * 4 + [{"q": "other"}] * 2
    prompts = ["same"] * 4 + ["other"] * 2
    one = TaskData({"acc": [1.0, 0, 0, 0, 1, 1]}, docs=docs, prompts=prompts)
    two = TaskData({"acc": [1.0, 1, 0, 0, 1, 0]}, docs=docs, prompts=prompts)
    (row,) = compare(*runs(tmp_path, one, two))
    assert (row.n, row.helped, row.harmed) == (6, 1, 1)


@pytest.mark.parametrize("logged", ["address", "digest"])
def test_documents_with_images_join_without_their_hash(tmp_path: Path, logged: str) -> None:
    def task(values: list[float], address: int) -> TaskData:
        held = [f"<PIL.PngImagePlugin.PngImageFile image mode=RGB size=8x8 at 0x{address + i:X}>" for i in range(12)]
        docs = [{"question": f"q{i}", "image": image} for i, image in enumerate(held)]
        hashes = [doc_hash(doc) for doc in docs]
        if logged == "digest":  # what lm_eval puts in an image's place once the document is hashed
            docs = [{**doc, "image": hashlib.sha256(b"%d" % i).hexdigest()} for i, doc in enumerate(docs)]
        return TaskData({"acc": values}, docs=docs, doc_hashes=hashes)

    known = [doc_hash({"question": f"q{i}"}) for i in range(3)]
    write_run(tmp_path / "a", {"t": task([0.0] * 12, 0x7F0000)})
    write_run(
        tmp_path / "b",
        {"t": task([1.0] * 6 + [0.0] * 6, 0x7FAA00)},
        steering=[{"method": "grains", "doc_hashes": {"build": known}}],
    )
    (row,) = compare(tmp_path / "a", tmp_path / "b")
    assert (row.n, row.helped, row.excluded) == (9, 3, 3)


def test_a_document_with_an_image_and_a_digest_of_its_own_is_recognised(tmp_path: Path) -> None:
    own = [{"id": hashlib.sha256(b"id %d" % i).hexdigest(), "question": "which?"} for i in range(12)]
    hashes = [doc_hash({**doc, "image": f"at 0x{i}"}) for i, doc in enumerate(own)]
    docs = [{**doc, "image": hashlib.sha256(b"%d" % i).hexdigest()} for i, doc in enumerate(own)]
    steering = [{"method": "grains", "doc_hashes": {"build": [doc_hash(doc) for doc in own[:3]]}}]
    prompts = [f"q{i}" for i in range(12)]
    write_run(tmp_path / "a", {"t": TaskData({"acc": [0.0] * 12}, docs=docs, doc_hashes=hashes, prompts=prompts)})
    steered = TaskData({"acc": [1.0] * 12}, docs=docs, doc_hashes=hashes, prompts=prompts)
    write_run(tmp_path / "b", {"t": steered}, steering=steering)
    (row,) = compare(tmp_path / "a", tmp_path / "b")
    assert (row.n, row.excluded) == (9, 3)


def test_a_digest_that_was_in_the_document_is_text_like_any_other(tmp_path: Path) -> None:
    def task(salt: str) -> TaskData:
        docs = [{"q": i, "file": hashlib.sha256(f"{salt}{i}".encode()).hexdigest()} for i in range(4)]
        return TaskData({"acc": [1.0] * 4}, docs=docs)

    with pytest.raises(GrainsError, match="4 of 4 documents"):
        compare(*runs(tmp_path, task("a"), task("b")))


def test_text_documents_with_foreign_hashes_are_refused(tmp_path: Path) -> None:
    values = [1.0] * 4
    one = TaskData({"acc": values}, doc_hashes=["a", "b", "c", "d"])
    two = TaskData({"acc": values}, doc_hashes=["e", "f", "g", "h"])
    with pytest.raises(GrainsError, match="4 of 4 documents"):
        compare(*runs(tmp_path, one, two))


def test_other_scoring_path_is_noted(tmp_path: Path) -> None:
    task = TaskData({"acc": bits(20, 0.5, 10)})
    write_run(tmp_path / "a", {"t": task})
    write_run(tmp_path / "b", {"t": task}, config={"scoring_path": "shared_context"})
    _, notes = compare_pair(read_run(tmp_path / "a"), read_run(tmp_path / "b"), Analysis())
    assert any("plain path" in note and "shared_context path" in note for note in notes)


def test_mismatched_tasks(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE, "u": BASE})
    write_run(tmp_path / "b", {"t": OTHER})
    with pytest.raises(GrainsError, match="run 'b' lacks task 'u' of the other run"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(GrainsError, match="run 'b' lacks task 'u'"):
        compare(tmp_path / "b", tmp_path / "a")
    with pytest.raises(GrainsError, match="'u' is in run 'a' but not in 'b'"):
        compare(tmp_path / "a", tmp_path / "b", tasks=["u"])
    with pytest.raises(GrainsError, match="did you mean 't'"):
        compare(tmp_path / "a", tmp_path / "b", tasks=["tt"])
    assert [row.task for row in compare(tmp_path / "a", tmp_path / "b", tasks=["t"])] == ["t"]


def test_prompting_baselines_may_prompt_differently(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE})
    prompted = replace(OTHER, prompts=[f"Tell the truth. {i}" for i in range(5)])
    write_run(
        tmp_path / "b",
        {"t": prompted},
        steering=[{"method": "prompt", "instruction": "Tell the truth."}],
        system_instruction_sha="abc",
    )
    (row,) = compare(tmp_path / "a", tmp_path / "b")
    assert row.n == 5
    write_run(tmp_path / "c", {"t": prompted})
    assert compare(tmp_path / "a", tmp_path / "c", prompts_may_differ=True)[0].n == 5


BASE = TaskData({"acc": [0.0, 1.0, 0.0, 1.0, 1.0]})


OTHER = TaskData({"acc": [1.0, 1.0, 0.0, 0.0, 1.0]})


MISMATCHES: dict[str, tuple[str, Callable[[TaskData], TaskData]]] = {
    "different n": (
        "numbers of documents differ: 5 in 'a', 4 in 'b'",
        lambda t: replace(t, values={"acc": [1.0] * 4}),
    ),
    "few-shot": ("few-shot examples differ: 0 in 'a', 5 in 'b'", lambda t: replace(t, shots=5)),
    "version": ("versions differ: 1.0 in 'a', 2.0 in 'b'", lambda t: replace(t, metadata={"version": 2.0})),
    "filter": ("filters differ: none in 'a', strict in 'b'", lambda t: replace(t, filter="strict")),
    "prompt": (
        "document 0: prompts differ between 'a' and 'b'",
        lambda t: replace(t, prompts=[f"Question {i}" for i in range(5)]),
    ),
    "target": ("document 0: targets differ", lambda t: replace(t, targets=["1"] * 5)),
    "documents": (
        "5 of 5 documents of 'a' are not in 'b'",
        lambda t: replace(t, docs=[{"question": f"another {i}"} for i in range(5)]),
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_unlike_runs_are_refused(name: str, tmp_path: Path) -> None:
    message, change = MISMATCHES[name]
    write_run(tmp_path / "a", {"t": BASE})
    write_run(tmp_path / "b", {"t": change(OTHER)})
    with pytest.raises(GrainsError) as caught:
        compare(tmp_path / "a", tmp_path / "b")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)  # what was wrong; what to do


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("chat_template_sha", "abc", "chat templates differ: old in 'a', abc in 'b'"),
        ("system_instruction_sha", "abc", "system instructions differ: old in 'a', abc in 'b'"),
        ("fewshot_as_multiturn", True, "fewshot_as_multiturn differ: old in 'a', True in 'b'"),
    ],
)
def test_other_prompt_settings_are_refused(key: str, value: object, message: str, tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE}, **{key: "old"})
    write_run(tmp_path / "b", {"t": OTHER}, **{key: value})
    with pytest.raises(GrainsError, match=message):
        compare(tmp_path / "a", tmp_path / "b")
    # Where one run does not say, the prompts themselves decide.
    write_run(tmp_path / "c", {"t": BASE})
    assert compare(tmp_path / "c", tmp_path / "b")[0].n == 5
    write_run(tmp_path / "d", {"t": replace(OTHER, prompts=[f"<|user|>{i}" for i in range(5)])}, **{key: value})
    with pytest.raises(GrainsError, match=rf"prompts differ between 'c' and 'd' \({message.split(':')[0]}\)"):
        compare(tmp_path / "c", tmp_path / "d")
