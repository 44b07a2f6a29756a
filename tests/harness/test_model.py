"""`grains_hf` beside `hf`: the same numbers without steering, other numbers with it, and everything written down."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM

from grains_eval.artifacts.load import load_vectors
from grains_eval.artifacts.save import save_vectors
from grains_eval.errors import GrainsError
from grains_eval.examples import doc_hash
from grains_eval.harness.arguments import parse_steering
from grains_eval.harness.model import GrainsHF
from grains_eval.models.layers import find_layers, hidden_size
from grains_eval.steering import steered
from grains_eval.types import SteeringConfig, SteeringVectors
from tests.instances import instance

FAMILIES = ["llama", "qwen2", "gemma3_text", "gpt2", "gpt_neox", "mixtral"]
DOCS = [{"q": f"what is {i}"} for i in range(4)]
CHOICES = [" yes", " no no", " paris"]


def requests(kind="loglikelihood"):
    if kind == "generate_until":
        settings = {"until": ["zzz"], "max_gen_toks": 5, "do_sample": False}
        return [instance(kind, doc, (doc["q"] + " answer", settings), number=i) for i, doc in enumerate(DOCS)]
    if kind == "loglikelihood_rolling":
        return [instance(kind, doc, (doc["q"] + " hello world",), number=i) for i, doc in enumerate(DOCS)]
    return [
        instance(kind, doc, (doc["q"] + " answer", choice), j, number=i)
        for i, doc in enumerate(DOCS)
        for j, choice in enumerate(CHOICES)
    ]


def vectors_for(model, seed=0, **provenance):
    generator = torch.Generator().manual_seed(seed)
    directions = {i: torch.randn(hidden_size(model), generator=generator) for i in range(len(find_layers(model)))}
    origin = {"method": "grains", **provenance}
    return SteeringVectors(
        directions, dict.fromkeys(directions, 3.0), recommended=SteeringConfig((1,), 1.0), provenance=origin
    )


@pytest.fixture
def folder(tmp_path, loaded_text):
    def make(name="v", family="llama", seed=0, **provenance):
        return str(save_vectors(vectors_for(loaded_text(family).model, seed, **provenance), tmp_path / name))

    return make


def open_lm(tiny_text, family="llama", kind=GrainsHF, **arguments):
    arguments = {
        "pretrained": str(tiny_text(family)),
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 3,
        **arguments,
    }
    return kind.create_from_arg_obj(arguments)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_steering_every_number_is_bit_identical_to_hf(tiny_text, folder, family):
    plain = open_lm(tiny_text, family, HFLM)
    ours = open_lm(tiny_text, family, share_context=False)
    zero = open_lm(tiny_text, family, vectors=folder(family=family), strength=0, share_context=False)
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        expected = getattr(plain, kind)(requests(kind), disable_tqdm=True)
        assert getattr(ours, kind)(requests(kind), disable_tqdm=True) == expected
        assert getattr(zero, kind)(requests(kind), disable_tqdm=True) == expected


@pytest.mark.parametrize("share", [True, False])
def test_strength_zero_takes_the_baseline_numbers_on_either_path(tiny_text, folder, share):
    base = open_lm(tiny_text, share_context=share).loglikelihood(requests(), disable_tqdm=True)
    zero = open_lm(tiny_text, vectors=folder(), strength=0, share_context=share)
    assert zero.loglikelihood(requests(), disable_tqdm=True) == base


@pytest.mark.parametrize("share", [True, False])
def test_steered_numbers_are_those_of_the_steered_model(tiny_text, loaded_text, folder, share):
    source = folder()
    lm = open_lm(tiny_text, vectors=source, strength=1.5, layers="0/1", share_context=share)
    found = lm.loglikelihood(requests(), disable_tqdm=True)
    loaded = loaded_text("llama")
    with steered(loaded.model, load_vectors(source), SteeringConfig((0, 1), 1.5)), torch.no_grad():
        for request, (value, _) in zip(requests(), found, strict=True):
            context, continuation = lm._encode_pair(*request.args)
            logprobs = loaded.model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
            at = torch.arange(len(context) - 1, len(context) + len(continuation) - 1)
            assert value == pytest.approx(float(logprobs[at, torch.tensor(continuation)].sum()), abs=1e-4)
    assert found != open_lm(tiny_text, share_context=share).loglikelihood(requests(), disable_tqdm=True)


def test_generation_is_steered(tiny_text, folder):
    plain = open_lm(tiny_text).generate_until(requests("generate_until"), disable_tqdm=True)
    strong = open_lm(tiny_text, vectors=folder(), strength=3.0, layers="all")
    moved = strong.generate_until(requests("generate_until"), disable_tqdm=True)
    assert moved != plain
    assert not any(module._forward_hooks for module in strong.model.modules()), "hooks are gone after the call"


def test_vectors_compose_each_with_its_strength(tiny_text, folder):
    both = f"{folder('a', seed=1)}+{folder('b', seed=2)}"
    lm = open_lm(tiny_text, vectors=both, strength="1.0+0.5", layers="0+1-2")
    described = lm.get_model_info()["steering"]
    assert [(one["strength"], one["layers"]) for one in described] == [(1.0, [0]), (0.5, [1, 2])]
    alone = open_lm(tiny_text, vectors=both, strength="1.0+0", layers="0+1")
    first = open_lm(tiny_text, vectors=both.split("+")[0], strength=1.0, layers=0)
    assert alone.loglikelihood(requests(), disable_tqdm=True) == first.loglikelihood(requests(), disable_tqdm=True)


def test_the_model_info_says_what_steered_and_how_many_documents_built_it(tiny_text, folder, caplog):
    hashes = {"build": [doc_hash(DOCS[0]), doc_hash(DOCS[2])], "development": [doc_hash(DOCS[3])]}
    lm = open_lm(tiny_text, vectors=folder(doc_hashes=hashes, recipe_hash="abc"), strength=0.5)
    lm.loglikelihood(requests(), disable_tqdm=True)
    info = lm.get_model_info()
    (one,) = info["steering"]
    assert (one["method"], one["layers"], one["strength"], one["operator"]) == ("grains", [1], 0.5, "add_renormalised")
    assert one["doc_hashes"] == hashes
    assert (info["evaluated_docs_used_to_build"], info["evaluated_docs_used_to_tune"]) == (2, 1)
    assert "2 evaluated documents were used to build" in caplog.text
    json.dumps(info["steering"])


def test_the_cache_never_mixes_baseline_and_steered(tiny_text, folder, tmp_path):
    source = folder()
    cache = str(tmp_path / "cache.db")
    answers = {}
    for name, arguments in (
        ("plain", {}),
        ("one", {"vectors": source, "strength": 1.0}),
        ("two", {"vectors": source, "strength": 2.0}),
    ):
        answers[name] = CachingLM(open_lm(tiny_text, **arguments), cache).loglikelihood(requests())
        expected = open_lm(tiny_text, **arguments).loglikelihood(requests(), disable_tqdm=True)
        assert answers[name] == expected
    again = open_lm(tiny_text, vectors=source, strength=1.0)
    again._loglikelihood_tokens = None  # any request that is not in the cache would fail
    assert CachingLM(again, cache).loglikelihood(requests()) == answers["one"]


def test_positions_need_the_shared_path_or_say_so(tiny_text, folder):
    lm = open_lm(tiny_text, vectors=folder(), positions="last", share_context=False)
    with pytest.raises(GrainsError, match=r"positions=last .*; use share_context=true$"):
        lm.loglikelihood(requests(), disable_tqdm=True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"vectors": ""}, "vectors= is empty, which is not the plain model"),
        ({"strength": 1.0}, "model_args has 'strength' but no 'vectors'"),
        ({"share_context": "maybe"}, "share_context='maybe' is neither true nor false"),
        ({"vectors": "FOLDER", "strength": "much"}, "strength=much is not a number"),
        ({"vectors": "FOLDER", "strength": "nan"}, "not a finite number"),
        ({"vectors": "FOLDER", "layers": 99}, "layer 99 is not in the vectors; they have layers 0-"),
        ({"vectors": "FOLDER", "layers": "two"}, "layers=two is not understood"),
        ({"vectors": "FOLDER", "operator": "addd"}, "unknown operator 'addd': did you mean 'add'"),
        ({"vectors": "FOLDER", "unit": "relativ"}, "did you mean 'relative'"),
        ({"vectors": "FOLDER", "positions": "some"}, "known are all, generated, last, prompt"),
        ({"vectors": "FOLDER+FOLDER", "strength": "1+2+3"}, "has 3 parts for 2 vectors"),
        ({"vectors": "/nowhere"}, "does not exist"),
        ({"strenght": 1.0}, "unknown model argument 'strenght': did you mean 'strength'"),
        ({"pretrained": "/nowhere/model"}, "pretrained='/nowhere/model' is not a folder"),
    ],
)
def test_mistakes_are_one_line_that_helps(tiny_text, folder, arguments, says):
    source = folder()
    arguments = {
        key: value.replace("FOLDER", source) if isinstance(value, str) else value for key, value in arguments.items()
    }
    with pytest.raises(GrainsError, match=says) as caught:
        open_lm(tiny_text, **arguments)
    assert "\n" not in str(caught.value)


def test_vectors_of_another_model_are_refused_or_warned_about(tiny_text, folder, tmp_path, caplog):
    wide = SteeringVectors({0: torch.ones(5)}, {0: 1.0})
    save_vectors(wide, tmp_path / "wide")
    with pytest.raises(GrainsError, match="have width 5 at layer 0 but the model needs"):
        open_lm(tiny_text, vectors=str(tmp_path / "wide"))
    open_lm(tiny_text, vectors=folder("other", base_model="org/other"))
    assert "was built for org/other" in caplog.text


def test_a_model_is_steered_by_one_artifact_after_another(tiny_text, folder):
    lm = open_lm(tiny_text)
    base = lm.loglikelihood(requests(), disable_tqdm=True)
    lm.steer(parse_steering(folder(), strength=2.0))
    assert lm.loglikelihood(requests(), disable_tqdm=True) != base
    lm.steer(())
    assert lm.loglikelihood(requests(), disable_tqdm=True) == base


def test_the_fingerprint_tells_settings_apart(tiny_text, folder):
    source = folder()
    prints = [open_lm(tiny_text, vectors=source, strength=s).cache_fingerprint() for s in (1.0, 1.0, 2.0)]
    assert prints[0] == prints[1] != prints[2]
    changed = replace(load_vectors(source), scales={i: 9.0 for i in load_vectors(source).layers})
    save_vectors(changed, source, overwrite=True)
    assert open_lm(tiny_text, vectors=source, strength=1.0).cache_fingerprint() != prints[0]
