"""Preference examples from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from grains_eval.errors import GrainsError
from grains_eval.examples import load_examples
from grains_eval.types import Message
from tests.examples.sources import file_data, rows, write

FEATURES = {
    **{name: {"dtype": "string", "_type": "Value"} for name in ("prompt", "chosen", "rejected")},
    "group": {"dtype": "int64", "_type": "Value"},
    "picture": {"_type": "Image"},
}


def test_rows_become_examples_and_sets_are_disjoint(tmp_path):
    found = load_examples(file_data(write(tmp_path / "d.jsonl", rows(9)), cluster="group"))
    assert (len(found.build), len(found.development)) == (4, 3)
    example = found.build[0]
    number = example.prompt.split()[-1]
    assert (example.chosen, example.rejected, example.cluster) == (
        f" right {number}",
        f" wrong {number}",
        str(int(number) % 3),
    )
    assert not {e.doc_hash for e in found.build} & {e.doc_hash for e in found.development}


def test_templates_chat_prompts_and_delimiters(tmp_path):
    path = write(tmp_path / "d.jsonl", [{"q": f"Why {i}?", "good": "a", "bad": "b"} for i in range(9)])
    keys = {"prompt": "Q: {{q}}\nA:", "chosen": "good", "rejected": "{{bad}}{{bad}}", "delimiter": ""}
    example = load_examples(file_data(path, **keys)).build[0]
    assert example.prompt.startswith("Q: Why")
    assert (example.chosen, example.rejected) == ("a", "bb")
    chat = load_examples(file_data(path, **keys, chat_template=True)).build[0]
    assert chat.prompt == (Message("user", chat.prompt[0].content),)
    turns = [
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": f"u{i}"}],
            "chosen": "a",
            "rejected": "b",
        }
        for i in range(9)
    ]
    example = load_examples(file_data(write(tmp_path / "t.jsonl", turns))).build[0]
    assert [message.role for message in example.prompt] == ["system", "user"]


def test_images(tmp_path):
    Image.new("RGB", (3, 3)).save(tmp_path / "p.png")
    path = write(tmp_path / "d.jsonl", [{**row, "picture": str(tmp_path / "p.png")} for row in rows(9)])
    assert load_examples(file_data(path, images="picture")).build[0].images[0].size == (3, 3)
    path = write(tmp_path / "e.jsonl", [{**row, "picture": str(tmp_path / "no.png")} for row in rows(9)])
    with pytest.raises(GrainsError, match=r"image .*no\.png' cannot be read"):
        load_examples(file_data(path, images="picture"))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"chosen": "chosn"}, "unknown field of the data 'chosn': did you mean 'chosen'"),
        ({"development": 6}, "development asks for 6 .* has 5 documents beside the 4 that build"),
        ({"examples": 10}, "examples asks for 10"),
    ],
)
def test_mistakes_in_the_recipe(tmp_path, keys, says):
    with pytest.raises(GrainsError, match=says):
        load_examples(file_data(write(tmp_path / "d.jsonl", rows(9)), **keys))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"chosen": ""}, "the chosen response is ''"),
        ({"rejected": "  "}, "the rejected response is"),
        ({"prompt": ""}, "the prompt is ''"),
    ],
)
def test_mistakes_in_the_data(tmp_path, row, says):
    with pytest.raises(GrainsError, match=says):
        load_examples(
            file_data(write(tmp_path / "d.jsonl", [{**each, **row, "n": i} for i, each in enumerate(rows(9))]))
        )


def test_files_that_cannot_be_read(tmp_path):
    for name, content, says in (
        ("none.jsonl", None, "does not exist"),
        ("empty.jsonl", "", "is empty"),
        ("bad.jsonl", "{not json", "cannot be loaded"),
        ("odd.txt", "x", "is not among"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(GrainsError, match=says) as caught:
            load_examples(file_data(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_images_of_a_file_are_found_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grains_eval.examples import load_examples
    from grains_eval.recipes import load_recipe

    home = tmp_path / "home"
    home.mkdir()
    Image.new("RGB", (4, 4)).save(home / "dot.png")
    (home / "rows.jsonl").write_text('{"prompt": "what?", "chosen": "a", "rejected": "b", "picture": "dot.png"}\n')
    (home / "recipe.yaml").write_text(
        "name: x\ndata: {path: rows.jsonl, images: picture, examples: 1, development: 0}\n"
    )
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(home / "recipe.yaml")
    assert load_examples(recipe.data).build[0].images[0].size == (4, 4)
    variant = recipe.variant("v", {"attribution": {"top_k": 3}})
    assert load_examples(variant.data).build[0].images[0].size == (4, 4)
    assert "folder" not in recipe.to_yaml()
