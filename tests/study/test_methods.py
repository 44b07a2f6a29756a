"""One entry builds every method; what it may choose it chooses as the others do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from grains_eval.artifacts.load import open_artifact
from grains_eval.errors import GrainsError
from grains_eval.examples import Examples
from grains_eval.models import LoadedModel
from grains_eval.recipes import Prompting
from grains_eval.report.formatting import number
from grains_eval.steering import steered
from grains_eval.study.methods import default_methods, method_recipe
from grains_eval.study.report_parts import development_tables
from grains_eval.study.session import load_plain
from grains_eval.vectors import METHODS
from tests.study.studies import build, demo_recipe
from tests.vectors.contexts import EXAMPLES, recipe


@pytest.fixture(scope="module")
def loaded_text(tiny_text: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """A study's model, which tunes by the path that it evaluates on."""
    return lambda name: LoadedModel.of(
        load_plain({"pretrained": str(tiny_text(name)), "dtype": "float32", "device": "cpu"})
    )


OPTIONS = {"iti": {"folds": 3}, "nl_iti": {"folds": 3}}
SPLIT = Examples(tuple(EXAMPLES[:4]), tuple(EXAMPLES[4:]))


OWN = sorted(name for name, entry in METHODS.items() if entry.steering is not None)


@pytest.mark.parametrize("method", OWN)
def test_every_baseline_is_built_and_tuned_on_development_examples(
    loaded_text: Callable[[str], LoadedModel], tmp_path: Path, method: str
) -> None:
    loaded = loaded_text("llama")
    made = recipe(method, **OPTIONS.get(method, {}))
    folder = build(made, {"pretrained": "base"}, tmp_path / method, loaded=loaded, examples=SPLIT)
    held = open_artifact(folder)
    assert held.method == method and held.vectors is not None
    own = METHODS[method].steering.tuned
    recommended = held.vectors.recommended
    assert (recommended.operator, recommended.unit) == (own.operator, own.unit)
    assert "2 development examples" in held.provenance["chosen_by"]
    tried = held.provenance["development_curve"]
    assert tried[0]["strength"] == 0 and len(tried) - 1 <= 3 * 4
    hashes = held.provenance["doc_hashes"]
    assert len(hashes["build"]) == 4 and len(hashes["development"]) == 2
    ids = torch.tensor([loaded.lm.tok_encode("What is green")])
    with torch.no_grad(), steered(loaded.model, held.vectors):
        assert loaded.model(ids).logits.isfinite().all()


@pytest.mark.parametrize("method", OWN)
def test_without_development_examples_the_source_is_followed_and_named(
    loaded_text: Callable[[str], LoadedModel], tmp_path: Path, method: str
) -> None:
    made = recipe(method, **OPTIONS.get(method, {}))
    examples = Examples(tuple(EXAMPLES), ())
    folder = build(made, {}, tmp_path / method, loaded=loaded_text("llama"), examples=examples)
    held = open_artifact(folder)
    assert held.vectors is not None
    assert held.vectors.recommended == METHODS[method].steering.untuned(held.vectors)
    assert "source" in held.provenance["chosen_by"]


def test_lora_takes_its_epoch_from_the_development_examples(
    loaded_text: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    made = recipe("lora", epochs=3, learning_rate=1e-2)
    folder = build(made, {}, tmp_path / "lora", loaded=loaded_text("llama"), examples=SPLIT)
    origin = open_artifact(folder).provenance
    curve = origin["development_curve"]
    assert [point["strength"] for point in curve] == [0, 1, 2, 3]
    # the loss on the build examples falls, so margins on others move
    assert len({point["margin"] for point in curve}) == 4
    # the untrained adapter stays where no epoch is better
    least = curve[0]["log_p_chosen_per_token"] - made.evaluation.likelihood_margin
    allowed = [p for p in curve if p["log_p_chosen_per_token"] >= least]
    best = max(allowed, key=lambda p: (p["lower"], p["margin"], -p["strength"]))
    expected = best["strength"] if best["lower"] > curve[0]["lower"] else 0
    assert origin["training"]["epoch"] == expected
    assert [point["strength"] for point in curve if point["is_chosen"]] == [expected]
    (table,) = development_tables([folder])
    chosen = curve[expected]
    told = f"{number(curve[0]['log_p_chosen'], 2)} → {number(chosen['log_p_chosen'], 2)}"
    assert dict(zip(table.header, table.rows[0], strict=True))["log p(y+)"] == told
    assert f"Chosen: epoch {expected} of 3" in (folder / "README.md").read_text()


def test_a_prompt_needs_no_model_and_no_examples(tmp_path: Path) -> None:
    told = recipe("prompt").model_copy(update={"prompting": Prompting(instruction="  Be honest. ")})
    folder = build(told, {"pretrained": "org/name"}, tmp_path / "prompt")
    held = open_artifact(folder)
    assert held.instruction == "Be honest." and held.method == "prompt"
    assert held.provenance["base_model"] == "org/name"
    assert held.provenance["doc_hashes"] == {"build": [], "development": []}
    with pytest.raises(GrainsError, match=r"has no prompting\.instruction"):
        build(recipe("prompt"), {}, tmp_path / "none")


def test_an_unknown_method_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(GrainsError, match="unknown method 'cca': did you mean 'caa'"):
        build(recipe("cca"), {}, tmp_path / "none")
    assert {"grains", "caa", "icv", "iti", "nl_iti", "lora", "prompt"} <= set(METHODS)


def test_options_stay_with_the_method_they_were_written_for() -> None:
    mine = recipe("iti", heads=3)
    assert method_recipe(mine, "iti").vectors.options == {"heads": 3}
    other = method_recipe(mine, "icv")
    assert other.vectors.method == "icv" and other.vectors.options == {}


def test_the_default_methods_and_unknown_ones():
    named = demo_recipe("methods={fine: {attribution: {top_k: 1}}}", "prompting=null")
    assert default_methods(named) == [
        "grains",
        "fine",
        "bipo",
        "caa",
        "contrastive",
        "icv",
        "iti",
        "nl_iti",
        "lora",
        "prompt",
    ]
    assert method_recipe(named, "fine").attribution.top_k == 1
    with pytest.raises(GrainsError, match="unknown method 'cca': did you mean 'caa'"):
        method_recipe(named, "cca")
