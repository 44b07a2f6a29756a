"""Draws are seeded and take no document twice."""

from __future__ import annotations

import pytest

from grains_eval.errors import GrainsError
from grains_eval.examples import load_examples
from tests.examples.sources import file_data, rows, write


def test_the_draw_is_seeded(tmp_path):
    path = write(tmp_path / "d.jsonl", rows(30))
    ids = [[e.id for e in load_examples(file_data(path, seed=seed)).build] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_a_document_that_stands_twice_counts_once(tmp_path):
    path = write(tmp_path / "d.jsonl", [*rows(7), *rows(7)])
    found = load_examples(file_data(path))
    assert len({e.doc_hash for e in (*found.build, *found.development)}) == 7
    with pytest.raises(GrainsError, match=r"examples asks for 8 but .* has 7 different documents"):
        load_examples(file_data(path, examples=8))
