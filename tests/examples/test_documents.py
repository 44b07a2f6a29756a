"""Documents are known by the harness's hash, and told apart by their images."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, Features
from PIL import Image

from grains_eval.errors import GrainsError
from grains_eval.examples import doc_hash, load_examples
from tests.examples.sources import file_data, rows, write

FEATURES = {
    **{name: {"dtype": "string", "_type": "Value"} for name in ("prompt", "chosen", "rejected")},
    "group": {"dtype": "int64", "_type": "Value"},
    "picture": {"_type": "Image"},
}


def test_the_hash_is_the_harness_own(tmp_path):
    from lm_eval.utils import handle_non_serializable, hash_string

    found = load_examples(file_data(write(tmp_path / "d.jsonl", rows(9))))
    row = rows(9)[int(found.build[0].prompt.split()[-1])]
    text = json.dumps(row, indent=2, default=handle_non_serializable, ensure_ascii=False)
    assert found.build[0].doc_hash == hash_string(text)


def test_rows_that_differ_only_in_a_decoded_image_are_different_documents(tmp_path):
    shades = [0, 40, 80, 120, 160, 200, 0, 40]  # six images, two of them twice
    images = [Image.new("RGB", (3, 3), (shade, 0, 0)) for shade in shades]
    fields = {name: [value] * len(shades) for name, value in rows(1)[0].items()}
    decoded = Dataset.from_dict({**fields, "picture": images}, Features.from_dict(FEATURES))
    decoded.to_parquet(str(tmp_path / "d.parquet"))
    found = load_examples(file_data(tmp_path / "d.parquet", images="picture", examples=3))
    drawn = [example.images[0].getpixel((0, 0))[0] for example in (*found.build, *found.development)]
    assert sorted(drawn) == sorted(set(shades))
    row = rows(1)[0]
    assert {example.doc_hash for example in (*found.build, *found.development)} == {doc_hash(row)}
    with pytest.raises(GrainsError, match="has 6 different documents"):
        load_examples(file_data(tmp_path / "d.parquet", images="picture", examples=7))
