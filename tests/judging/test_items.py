"""What a judge is asked about a row: its fields, and its images where they are wanted."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from grains_eval.comparison.logs import read_run
from grains_eval.errors import GrainsError
from grains_eval.judging.items import Judge, fields_of, generations, images_of, requests_of
from grains_eval.judging.rubrics import load_rubric
from grains_eval.tasks_path import task_directory
from tests.judging.runs import write

ROW = {
    "doc_id": 3,
    "doc": {"question": "what?", "class1": "a"},
    "target": "that",
    "arguments": {"gen_args_0": {"arg_0": "Q: what?", "arg_1": {}}},
    "filtered_resps": ["this"],
}


def test_fields():
    expected = {"question": "what?", "class1": "a", "response": "this", "target": "that", "prompt": "Q: what?"}
    assert fields_of(ROW, "t") == expected
    with pytest.raises(GrainsError, match="document 3: its response is no text"):
        fields_of({**ROW, "filtered_resps": [[1.0, True]]}, "t")


def filtered(folder, *names):
    """A run whose documents have a row for each filter, with the filter's name for an answer."""
    file = next(write(folder, count=3).rglob("samples_*"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [{**row, "filter": name, "filtered_resps": [name]} for name in names for row in reversed(rows)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_run(folder)


@pytest.mark.parametrize("names", (("strict", "none", "loose"), ("none",), ("strict",)))
def test_a_document_is_judged_once(names, tmp_path):
    rows = generations(filtered(tmp_path / "run", *names), "mmhal_bench")
    kept = "none" if "none" in names else names[0]
    assert [(row["doc_id"], row["filtered_resps"]) for row in rows] == [(number, [kept]) for number in range(3)]


def test_filters_that_cannot_be_told_are_refused(tmp_path):
    with pytest.raises(GrainsError, match="has the filters loose, strict and none of the name 'none'"):
        generations(filtered(tmp_path / "run", "strict", "loose"), "mmhal_bench")


def test_a_request_holds_system_parameters_and_images():
    rubric = load_rubric("spa_vl_harm").model_copy(update={"system": "be strict"})
    judge = Judge("m", rubric, {"temperature": 0.5})
    plain, seen = (requests_of(judge, "t", [ROW], [images])[0] for images in ([], ["data:x"]))
    assert plain["model"] == "m" and plain["temperature"] == 0.5
    assert [message["role"] for message in plain["messages"]] == ["system", "user"]
    assert "Question: what?" in plain["messages"][1]["content"]
    image, text = seen["messages"][1]["content"]
    assert image == {"type": "image_url", "image_url": {"url": "data:x"}}
    assert text == {"type": "text", "text": plain["messages"][1]["content"]}


def test_the_images_of_a_task_are_what_the_model_saw():
    lines = (task_directory() / "demo" / "image" / "data" / "test.jsonl").read_text().splitlines()[:2]
    docs = [{**json.loads(line), "scene": json.dumps(json.loads(line)["scene"])} for line in lines]
    found = images_of("demo_image", [{"doc": doc} for doc in docs], ())
    assert images_of("demo_image", [{}], None) == [[]]  # not wanted
    sizes = set()
    for (url,) in found:
        head, _, content = url.partition(",")
        assert head == "data:image/png;base64"
        sizes.add(Image.open(io.BytesIO(base64.b64decode(content))).size)
    assert len(found) == 2 and len(sizes) == 1 and found[0] != found[1]


def test_tasks_without_images_are_refused():
    with pytest.raises(GrainsError, match="task 'demo_text_split' has no images; leave --images out"):
        images_of("demo_text_split", [{"doc": {"prompt": "x"}}], ())


@pytest.mark.slow
def test_tasks_that_are_not_there_are_refused():
    with pytest.raises(GrainsError, match="the images of task 'no_such_task' cannot be loaded"):
        images_of("no_such_task", [{"doc": {}}], ())
