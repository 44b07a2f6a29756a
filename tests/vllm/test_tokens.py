"""Found tokens in the prompts of an engine, as words and as embeddings, against Hugging Face."""

from __future__ import annotations

import pytest

from grains_eval.artifacts.layout import Artifact
from grains_eval.errors import GrainsError
from grains_eval.harness.arguments import AppliedArtifact
from grains_eval.types import TokenConfig
from grains_eval.virtual_tokens.merging import resolve_tokens
from tests.virtual_tokens.models import some_found
from tests.vllm import checks
from tests.vllm.families import build

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def theirs(folder):
    return checks.reference(folder)


@pytest.fixture(scope="module")
def ours(folder, theirs):
    with pytest.MonkeyPatch.context() as patch:
        checks.in_one_process(patch.setenv)
        options = {"enforce_eager": True, "enable_prompt_embeds": True, **checks.ALONE}
        with checks.engine(folder, max_settings=2, max_vectors=2, **options) as made:
            yield made


def inserted(lm, **changes):
    found = some_found(lm.model)
    config = TokenConfig(**{"tokens": 2, "form": "text", **changes})
    artifact = Artifact("found", None, None, None, found.provenance, tokens=found)
    return AppliedArtifact("found", artifact, config, resolve_tokens(found, config))


SETTINGS = {
    "words": [{}],
    "words, near": [{"distance": 1}],
    "embeddings": [{"form": "embedding"}],
    "embedding, far": [{"form": "embedding", "tokens": 1, "distance": 900}],
    "both": [{"tokens": 1}, {"form": "embedding", "tokens": 1, "distance": 3}],
}


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_answers_are_those_of_hugging_face(ours, theirs, name, vectors):
    setting = tuple(inserted(theirs, **each) for each in SETTINGS[name])
    if vectors:
        setting = (*setting, checks.applied(1, (1, 3), strength=0.6, positions="prompt"))
    asked = {kind: checks.requests(kind, 4) for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until")}
    if vectors:
        del asked["loglikelihood_rolling"]
    found = {}
    for side, lm in (("ours", ours), ("theirs", theirs)):
        plain = lm.loglikelihood(asked["loglikelihood"], disable_tqdm=True)
        lm.steer(setting)
        try:
            found[side] = {kind: getattr(lm, kind)(requests, disable_tqdm=True) for kind, requests in asked.items()}
        finally:
            lm.steer(())
        pairs = zip(plain, found[side]["loglikelihood"], strict=True)
        assert max(abs(before[0] - after[0]) for before, after in pairs) > 0.05
    for (score, greedy), (wanted, same) in zip(
        found["ours"]["loglikelihood"], found["theirs"]["loglikelihood"], strict=True
    ):
        assert score == pytest.approx(wanted, abs=2e-4) and greedy == same
    if not vectors:
        wanted = found["theirs"]["loglikelihood_rolling"]
        assert found["ours"]["loglikelihood_rolling"] == pytest.approx(wanted, abs=1e-3)
    texts = ([each.rstrip("\ufffd") for each in found[side]["generate_until"]] for side in ("ours", "theirs"))
    assert next(texts) == next(texts)


def test_what_cannot_be_shown_is_refused(ours, theirs, monkeypatch):
    with pytest.raises(
        GrainsError, match=r"found tokens as keys and values \(form=kv\), which grains_vllm cannot show"
    ):
        ours.steer((inserted(theirs, form="kv"),))
    soft = inserted(theirs, form="embedding")
    monkeypatch.setattr(ours.model.llm_engine.model_config, "enable_prompt_embeds", False)
    with pytest.raises(GrainsError, match="give enable_prompt_embeds=True"):
        ours.steer((soft,))
    monkeypatch.undo()
    monkeypatch.setattr(ours.model.llm_engine.model_config, "get_hidden_size", lambda: 5)
    with pytest.raises(GrainsError, match="found tokens have embeddings of width 64 but the model needs 5"):
        ours.steer((soft,))
