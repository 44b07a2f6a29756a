"""Folders of found tokens: what is written comes back, and damaged ones are refused in one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from grains_eval.artifacts.layout import CONFIG, TOKENS, ArtifactContents, fingerprint
from grains_eval.artifacts.load import load_vectors, open_artifact
from grains_eval.artifacts.save import save_artifact
from grains_eval.errors import GrainsError
from grains_eval.types import TokenConfig
from tests.virtual_tokens.models import made, some_found


@pytest.fixture
def folder(tmp_path):
    evidence = {"positive": {"candidates": 9, "largest_t": 5.0, "adjusted_p": 0.001, "harmful": 1}}
    return save_artifact(ArtifactContents(tokens=some_found(made("llama"), transfer=evidence)), tmp_path / "tokens")


def test_what_is_saved_comes_back(folder):
    found, expected = open_artifact(folder), some_found(made("llama"))
    assert found.method == "found_tokens" and found.vectors is None and found.tokens is not None
    assert found.tokens.recommended == TokenConfig()
    for side in ("positive", "negative"):
        own, theirs = getattr(found.tokens, side), getattr(expected, side)
        assert own.origins == theirs.origins
        assert torch.equal(own.embeddings, theirs.embeddings)
        for layer in range(3):
            assert torch.equal(own.keys[layer], theirs.keys[layer])
            assert torch.equal(own.values[layer], theirs.values[layer])
    assert fingerprint(found.tokens) == fingerprint(expected)
    assert fingerprint(found.tokens) != fingerprint(some_found(made("llama"), seed=3))


def test_the_card_shows_words_places_and_evidence(folder):
    card = (folder / "README.md").read_text()
    assert "| `w1` | 1 | 1 | 3 | 2 |" in card
    assert "Of 9 candidates the best moved the preference of other examples with t 5 (p 0.001" in card
    assert "tokens back, the upper median of the distances found. The most frequent word found is `w" in card
    assert "1 were left out for harming preserved items" in card and "strength 0 (log of a multiplicity)" in card


def test_formats_are_told_apart(folder, tmp_path):
    assert json.loads((folder / CONFIG).read_text())["format_version"] == 2
    text = save_artifact(ArtifactContents(instruction="be kind", provenance={"method": "prompt"}), tmp_path / "p")
    written = json.loads((text / CONFIG).read_text())
    assert written["format_version"] == 1 and "found_tokens" not in written  # older versions read it
    with pytest.raises(GrainsError, match="holds found tokens, no vectors"):
        load_vectors(folder)


def _config(change):
    def damage(folder):
        raw = json.loads((folder / CONFIG).read_text())
        change(raw)
        (folder / CONFIG).write_text(json.dumps(raw))

    return damage


def _tensors(change):
    def damage(folder):
        tensors = load_file(folder / TOKENS)
        change(tensors)
        save_file(tensors, folder / TOKENS)

    return damage


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / TOKENS).unlink(), "is missing or damaged"),
        (lambda folder: (folder / TOKENS).write_bytes(b"no tensors"), "is missing or damaged"),
        (_config(lambda raw: raw.update(format_version=4)), "has format 4 but this version reads up to 3"),
        (_config(lambda raw: raw["layers"].append(3)), "disagree about negative.keys.3"),
        (_config(lambda raw: raw["found_tokens"].pop("positive")), "disagree about positive"),
        (_config(lambda raw: raw["found_tokens"]["positive"].pop()), "expected 3 found tokens"),
        (_config(lambda raw: raw["found_tokens"]["positive"][0].pop("word")), "word: Field required"),
        (_config(lambda raw: raw["found_tokens"]["positive"][0].update(distance=-2)), "greater than or equal to 0"),
        (_config(lambda raw: raw["recommended"].update(form="kw")), "recommended setting is damaged: unknown form"),
        (_config(lambda raw: raw["recommended"].update(speed=1)), "recommended setting is damaged"),
        (_tensors(lambda t: t.update({"positive.keys.1": t["positive.keys.1"][:, 0].clone()})), "positive.keys.1 has"),
        (
            _tensors(lambda t: t["negative.values.0"].fill_(float("nan"))),
            "negative.values.0 holds numbers that are not",
        ),
    ],
)
def test_damaged_folders_are_refused_in_one_line(folder, damage, why):
    damage(folder)
    with pytest.raises(GrainsError, match=why) as caught:
        open_artifact(folder)
    assert "\n" not in str(caught.value)
