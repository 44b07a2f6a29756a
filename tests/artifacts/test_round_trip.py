"""What is saved is what is loaded, whatever its layers, width, types and names; the same thing is the same bytes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import given
from hypothesis import strategies as st

from grains_eval.artifacts.layout import ArtifactContents, fingerprint
from grains_eval.artifacts.load import load_vectors, open_artifact
from grains_eval.artifacts.save import save_artifact, save_vectors
from grains_eval.types import (
    Contrast,
    FoundTokens,
    SteeringConfig,
    SteeringVectors,
    TokenConfig,
    TokenOrigin,
    TokenPool,
)
from tests import forked, properties
from tests.properties import cases

TEXTS = properties.TEXTS.filter(lambda text: "\ud800" not in text)  # which recipes refuse
TYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
FINITE = st.none() | st.booleans() | st.integers(-5, 10**30) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
ORIGINS = st.dictionaries(TEXTS.map(lambda text: f"x {text}"), properties.json_values(FINITE, TEXTS), max_size=3)
# of a folder: anything that a file system takes
FOLDERS = st.text("aä.-_ *[]?'\"", min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))


def _tensor(draw, *shape):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    size = draw(st.sampled_from([0.0, 1e-30, 1.0, 6e4]))
    return (size * torch.rand(*shape, generator=generator)).to(draw(TYPES))


@st.composite
def vectors(draw):
    layers = draw(st.lists(st.integers(0, 90), min_size=1, max_size=4, unique=True))
    width = draw(st.integers(1, 9))
    numbers = st.floats(allow_infinity=False)
    steered = draw(st.none() | st.lists(st.sampled_from(layers), min_size=1, unique=True).map(tuple))
    return SteeringVectors(
        directions={layer: _tensor(draw, width) for layer in layers},
        scales=draw(st.dictionaries(st.sampled_from(layers), st.floats(0, 1e300))),
        site=draw(st.sampled_from(["block_output", "attention_heads"])),
        statistics=draw(st.dictionaries(st.sampled_from(layers), st.dictionaries(TEXTS, numbers, max_size=2))),
        recommended=SteeringConfig(
            steered,
            draw(st.floats(-1e3, 1e3)),
            draw(st.sampled_from(["relative", "absolute"])),
            draw(st.sampled_from(["add", "add_renormalised"])),
            draw(st.sampled_from(["all", "prompt", "generated", "last"])),
        ),
        provenance={"method": draw(TEXTS), **draw(ORIGINS)},
    )


@st.composite
def tokens(draw):
    layers, heads, width = draw(st.lists(st.integers(0, 9), min_size=1, unique=True)), draw(st.integers(1, 3)), 2
    origins = st.builds(
        TokenOrigin, TEXTS, st.integers(-1, 9), st.integers(0, 99), st.integers(0, 99), TEXTS, st.floats(-9, 9)
    )

    def pool():
        found = tuple(draw(st.lists(origins, min_size=1, max_size=3)))
        states = [{layer: _tensor(draw, len(found), heads, width) for layer in layers} for _ in range(2)]
        return TokenPool(*states, _tensor(draw, len(found), 5), found)

    setting = TokenConfig(None, draw(st.floats(-3, 3)), draw(st.integers(1, 4)), draw(st.none() | st.integers(0, 9)))
    return FoundTokens(pool(), pool() if draw(st.booleans()) else None, setting, {"method": "found_tokens"})


def alike(first, second):
    """Equal, where NaN is NaN and tensors are equal as float32."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first.float(), second) and second.dtype == torch.float32
    if isinstance(first, dict):
        return set(first) == set(second) and all(alike(value, second[key]) for key, value in first.items())
    if isinstance(first, float) and math.isnan(first):
        return math.isnan(second)
    return first == second


@cases(30)
@given(vectors(), FOLDERS)
def test_vectors(made, name):
    with TemporaryDirectory() as home:
        folder = save_vectors(made, Path(home) / name)
        held = load_vectors(folder)
        assert [each.name for each in Path(home).iterdir()] == [name]
        again = save_vectors(held, Path(home) / "again" / name)
        assert forked.listing(again) == forked.listing(folder)
    for part in ("directions", "scales", "statistics", "provenance"):
        expected = getattr(made, part)
        if part == "provenance":
            expected = {"versions": held.provenance["versions"], **expected}
        assert alike(dict(expected), dict(getattr(held, part))), part
    assert (held.site, held.recommended, held.layers) == (made.site, made.recommended, made.layers)
    assert fingerprint(held) == fingerprint(made)


@cases(25)
@given(tokens())
def test_found_tokens(made):
    with TemporaryDirectory() as home:
        folder = save_artifact(ArtifactContents(tokens=made), Path(home) / "a")
        held = open_artifact(folder).tokens
        again = save_artifact(ArtifactContents(tokens=held), Path(home) / "again" / "a")
        assert forked.listing(again) == forked.listing(folder)
    assert held.recommended == made.recommended and (held.negative is None) == (made.negative is None)
    for one, other in ((made.positive, held.positive), (made.negative, held.negative)):
        if one is not None:
            assert alike(dict(one.keys), dict(other.keys)) and alike(dict(one.values), dict(other.values))
            assert alike(one.embeddings, other.embeddings) and one.origins == other.origins
    assert fingerprint(held) == fingerprint(made)


@cases(25)
@given(TEXTS, st.floats(0, 1e6), st.dictionaries(TEXTS, TEXTS, max_size=3), ORIGINS)
def test_instructions_and_contrasts(text, alpha, contexts, origin):
    contents = ArtifactContents(instruction=text, provenance=origin)
    with TemporaryDirectory() as home:
        held = open_artifact(save_artifact(contents, Path(home) / "a"))
        assert held.instruction == text and {key: held.provenance[key] for key in origin} == origin
        contrast = replace(contents, instruction=None, contrast=Contrast(alpha, contexts))
        assert open_artifact(save_artifact(contrast, Path(home) / "b")).contrast == Contrast(alpha, contexts)
