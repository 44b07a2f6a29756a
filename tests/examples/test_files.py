"""Preference examples from files."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, Features
from PIL import Image

from grains_eval.errors import GrainsError
from grains_eval.examples import doc_hash, load_examples
from grains_eval.recipes import parse_recipe
from grains_eval.types import Message

FEATURES = {
    **{name: {"dtype": "string", "_type": "Value"} for name in ("prompt", "chosen", "rejected")},
    "group": {"dtype": "int64", "_type": "Value"},
    "picture": {"_type": "Image"},
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(n):
    return [
        {"prompt": f"question {i}", "chosen": f"right {i}", "rejected": f"wrong {i}", "group": i % 3} for i in range(n)
    ]


def data(path, **keys):
    return parse_recipe({"name": "x", "data": {"path": str(path), "examples": 4, "development": 3, **keys}}).data


def test_rows_become_examples_and_sets_are_disjoint(tmp_path):
    found = load_examples(data(write(tmp_path / "d.jsonl", rows(9)), cluster="group"))
    assert (len(found.build), len(found.development)) == (4, 3)
    example = found.build[0]
    number = example.prompt.split()[-1]
    assert (example.chosen, example.rejected, example.cluster) == (
        f" right {number}",
        f" wrong {number}",
        str(int(number) % 3),
    )
    assert not {e.doc_hash for e in found.build} & {e.doc_hash for e in found.development}


def test_the_draw_is_seeded(tmp_path):
    path = write(tmp_path / "d.jsonl", rows(30))
    ids = [[e.id for e in load_examples(data(path, seed=seed)).build] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_a_document_that_stands_twice_counts_once(tmp_path):
    path = write(tmp_path / "d.jsonl", [*rows(7), *rows(7)])
    found = load_examples(data(path))
    assert len({e.doc_hash for e in (*found.build, *found.development)}) == 7
    with pytest.raises(GrainsError, match=r"examples asks for 8 but .* has 7 different documents"):
        load_examples(data(path, examples=8))


def test_the_hash_is_the_harness_own(tmp_path):
    from lm_eval.utils import handle_non_serializable, hash_string

    found = load_examples(data(write(tmp_path / "d.jsonl", rows(9))))
    row = rows(9)[int(found.build[0].prompt.split()[-1])]
    text = json.dumps(row, indent=2, default=handle_non_serializable, ensure_ascii=False)
    assert found.build[0].doc_hash == hash_string(text)


def test_templates_chat_prompts_and_delimiters(tmp_path):
    path = write(tmp_path / "d.jsonl", [{"q": f"Why {i}?", "good": "a", "bad": "b"} for i in range(9)])
    keys = {"prompt": "Q: {{q}}\nA:", "chosen": "good", "rejected": "{{bad}}{{bad}}", "delimiter": ""}
    example = load_examples(data(path, **keys)).build[0]
    assert example.prompt.startswith("Q: Why")
    assert (example.chosen, example.rejected) == ("a", "bb")
    chat = load_examples(data(path, **keys, chat_template=True)).build[0]
    assert chat.prompt == (Message("user", chat.prompt[0].content),)
    turns = [
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": f"u{i}"}],
            "chosen": "a",
            "rejected": "b",
        }
        for i in range(9)
    ]
    example = load_examples(data(write(tmp_path / "t.jsonl", turns))).build[0]
    assert [message.role for message in example.prompt] == ["system", "user"]


def test_pictures(tmp_path):
    Image.new("RGB", (3, 3)).save(tmp_path / "p.png")
    path = write(tmp_path / "d.jsonl", [{**row, "picture": str(tmp_path / "p.png")} for row in rows(9)])
    assert load_examples(data(path, images="picture")).build[0].images[0].size == (3, 3)
    path = write(tmp_path / "e.jsonl", [{**row, "picture": str(tmp_path / "no.png")} for row in rows(9)])
    with pytest.raises(GrainsError, match=r"picture .*no\.png' cannot be read"):
        load_examples(data(path, images="picture"))


def test_rows_that_differ_only_in_a_decoded_picture_are_different_documents(tmp_path):
    shades = [0, 40, 80, 120, 160, 200, 0, 40]  # six pictures, two of them twice
    pictures = [Image.new("RGB", (3, 3), (shade, 0, 0)) for shade in shades]
    fields = {name: [value] * len(shades) for name, value in rows(1)[0].items()}
    decoded = Dataset.from_dict({**fields, "picture": pictures}, Features.from_dict(FEATURES))
    decoded.to_parquet(str(tmp_path / "d.parquet"))
    found = load_examples(data(tmp_path / "d.parquet", images="picture", examples=3))
    drawn = [example.images[0].getpixel((0, 0))[0] for example in (*found.build, *found.development)]
    assert sorted(drawn) == sorted(set(shades))
    row = rows(1)[0]
    assert {example.doc_hash for example in (*found.build, *found.development)} == {doc_hash(row)}
    with pytest.raises(GrainsError, match="has 6 different documents"):
        load_examples(data(tmp_path / "d.parquet", images="picture", examples=7))


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
        load_examples(data(write(tmp_path / "d.jsonl", rows(9)), **keys))


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
        load_examples(data(write(tmp_path / "d.jsonl", [{**each, **row, "n": i} for i, each in enumerate(rows(9))])))


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
            load_examples(data(tmp_path / name))
        assert "\n" not in str(caught.value)
