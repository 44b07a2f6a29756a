"""Context-aware decoding from recipe to report, on the bundled worlds."""

from __future__ import annotations

import pytest

from grains_eval.artifacts.load import open_artifact
from grains_eval.demo.run import demo_model_args
from grains_eval.errors import NotApplicable
from grains_eval.examples import load_examples
from grains_eval.harness.contrastive import encode_pair, score_contrasted
from grains_eval.models import LoadedModel
from grains_eval.recipes import load_recipe
from grains_eval.study.contrastive import _preserved
from grains_eval.study.development_set import ChoiceItem
from grains_eval.study.session import load_plain
from grains_eval.tasks_path import task_directory
from tests.harness.test_contrastive import DOCS, prompt
from tests.instances import instance
from tests.study.studies import SMALL, build, compare, demo_recipe


def recipe(*overrides):
    return load_recipe(task_directory() / "demo" / "faithfulness" / "recipe.yaml", [*SMALL, *overrides])


def test_examples_know_the_context_that_their_task_declares():
    drawn = load_examples(recipe().data)
    for example in (*drawn.build, *drawn.development):
        assert example.context and example.prompt.startswith(example.context)
        assert example.context.endswith(". ") and "question" not in example.context
    assert all(example.context is None for example in load_examples(demo_recipe().data).build)


def test_alpha_is_chosen_on_development_items_and_may_be_fixed(tmp_path):
    folder = build(recipe("vectors.method=contrastive"), demo_model_args("text_split"), tmp_path / "auto")
    held = open_artifact(folder)
    points = held.provenance["development_curve"]
    assert [point["layers"] for point in points] == [[]] * 17 and points[0]["strength"] == 0
    assert [point["strength"] for point in points if point["is_chosen"]] == [held.contrast.alpha]
    assert set(held.contrast.contexts) == {"demo_faithfulness"}
    fixed = recipe("vectors={method: contrastive, options: {alpha: 0.5}}")
    assert open_artifact(build(fixed, demo_model_args("text_split"), tmp_path / "fixed")).contrast.alpha == 0.5
    none = recipe("vectors.method=contrastive", "data.development=0")
    held = open_artifact(build(none, demo_model_args("text_split"), tmp_path / "none"))
    assert held.contrast.alpha == 1.0 and "as in the method's source" in held.provenance["chosen_by"]


def test_the_recipe_may_say_what_the_context_is(tmp_path):
    told = demo_recipe("vectors={method: contrastive, options: {alpha: 1, contexts: {demo_text_split: cues}}}")
    held = open_artifact(build(told, demo_model_args("text_split"), tmp_path / "told"))
    assert held.contrast.contexts == {"demo_text_split": "cues"}


def test_without_a_context_there_is_a_row_that_says_so(tmp_path):
    with pytest.raises(NotApplicable, match=r"^no task of evaluation\.tasks has a context to contrast"):
        build(demo_recipe("vectors.method=contrastive"), demo_model_args("text_split"), tmp_path / "none")
    told = demo_recipe("evaluation.limit=8", "evaluation.control_draws=0", "data.examples=8", "prompting=null")
    report = compare(
        told, demo_model_args("text_split"), tmp_path / "out", methods=["vocabulary", "contrastive", "prompt"]
    )
    assert set(report.absent) == {"contrastive", "prompt"} and not report.failures
    written = (tmp_path / "out" / "report.md").read_text()
    assert "no task of evaluation.tasks has a context" in written and "does not apply" in written
    assert "does not apply" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_it_is_compared_like_any_method(tmp_path):
    small = recipe("vectors.method=vocabulary", "evaluation.control_draws=0")
    report = compare(small, demo_model_args("text_split"), tmp_path / "out", methods=["contrastive"])
    assert not report.failures and not report.absent
    assert report.settings["contrastive"].startswith("α ")
    tasks = {row.comparison.task for row in report.rows if row.comparison.method == "contrastive"}
    assert {"demo_faithfulness", "demo_faithfulness_skills"} <= tasks


def test_preserved_items_are_scored_at_every_alpha_and_plainly_without_a_context(tiny_text):
    """Gold is what is best at the last alpha, so that accuracies tell whose scores were read."""
    arguments = {"pretrained": str(tiny_text("llama")), "dtype": "float32", "device": "cpu", "batch_size": 2}
    loaded, alphas = LoadedModel.of(load_plain(arguments)), [0.0, 20.0]
    choices = [" red", " green", " dog", " rome", " yes", " bad"]
    best = []
    for doc in DOCS:
        bare = prompt(doc).replace(doc["c"], "", 1) if doc["c"] else prompt(doc)
        pairs = [encode_pair(loaded.lm, prompt(doc), bare, choice) for choice in choices]
        found = score_contrasted(loaded.lm, pairs, alphas, disable_tqdm=True)
        best.append([max(range(len(row)), key=lambda choice: row[choice][0]) for row in found])
    assert any(plain != contrasted for plain, contrasted in best)
    items = [
        ChoiceItem(
            f"h{number}",
            tuple(instance("loglikelihood", doc, (prompt(doc), choice), task="reading") for choice in choices),
            frozenset([best[number][1]]),
        )
        for number, doc in enumerate(DOCS)
    ]
    expected = sum(plain == contrasted for plain, contrasted in best) / len(DOCS)
    assert _preserved(loaded, items, {"reading": "{{c}}"}, alphas) == [expected, 1.0]
    assert _preserved(loaded, items, {"other": "{{c}}"}, alphas) == [expected, expected]
