"""Results folders of Python runs against those that lm-eval's command line writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.evaluator import simple_evaluate
from lm_eval.loggers import EvaluationTracker

from grains_eval.comparison import compare
from grains_eval.comparison.logs import read_run
from grains_eval.demo import model_path
from grains_eval.errors import GrainsError
from grains_eval.examples import task_manager
from grains_eval.harness.evaluate import MODEL_FOLDER, evaluate, write_run
from grains_eval.harness.model import GrainsHF
from grains_eval.harness.sweep import evaluate_settings

TASK = "demo_text_split"
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"  # words here begin with a space
NOTED = (
    "model_source",
    "model_name",
    "model_name_sanitized",
    "system_instruction",
    "system_instruction_sha",
    "chat_template",
    "chat_template_sha",
    "fewshot_as_multiturn",
)
PROMPTED = {"apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": "be brief"}


@pytest.fixture(scope="module")
def arguments() -> dict[str, str]:
    return {"pretrained": str(model_path("text_split")), "dtype": "float32"}


@pytest.fixture(scope="module")
def lm(arguments: dict[str, str]) -> GrainsHF:
    lm = GrainsHF.create_from_arg_obj(arguments, {"device": "cpu", "batch_size": 4})
    lm.tokenizer.chat_template = TEMPLATE
    return lm


def noted(folder: Path) -> dict[str, Any]:
    return {key: read_run(folder).results.get(key) for key in NOTED}


@pytest.mark.parametrize("settings", [{}, PROMPTED], ids=["plain", "prompted"])
def test_a_python_run_notes_what_the_command_line_notes(lm, arguments, settings, tmp_path) -> None:
    tracker = EvaluationTracker(output_path=str(tmp_path / "theirs"))
    theirs = simple_evaluate(
        model=lm, model_args=arguments, tasks=[TASK], task_manager=task_manager([TASK], ()), limit=2,
        evaluation_tracker=tracker, **{"fewshot_as_multiturn": None, **settings},
    )  # fmt: skip
    assert theirs is not None
    samples = theirs.pop("samples")
    tracker.save_results_aggregated(results=theirs, samples=samples)
    wanted = noted(tmp_path / "theirs")
    assert (wanted["chat_template"] == TEMPLATE) is bool(settings)

    (swept,) = evaluate_settings(lm, [()], [TASK], task_manager=task_manager([TASK], ()), limit=2, **settings)
    swept["config"] |= {"model": "CUSTOM", "model_args": arguments}
    write_run(swept, tmp_path / "swept")
    assert noted(tmp_path / "swept") == wanted

    handed = evaluate(lm, [TASK], output_path=tmp_path / "handed", limit=2, **settings)
    assert handed["chat_template"] == wanted["chat_template"]
    assert noted(tmp_path / "handed") == wanted | {"model_source": "grains_hf"}


def test_arguments_name_the_folder_and_old_folders_still_compare(arguments, tmp_path) -> None:
    evaluate(arguments, TASK, output_path=tmp_path / "new", limit=4, device="cpu")
    (home,) = (tmp_path / "new").iterdir()
    assert home.name == arguments["pretrained"].replace("/", "__")
    old = tmp_path / "old" / "None"
    old.mkdir(parents=True)
    for file in home.iterdir():
        text = file.read_text()
        if file.name.startswith("results_"):
            text = json.dumps(json.loads(text) | dict.fromkeys(NOTED))
        (old / file.name).write_text(text)
    assert [row.difference for row in compare(tmp_path / "old", tmp_path / "new")]
    assert read_run(old).name == "old" and read_run(home).name == "new"
    # an evaluation into a folder with results from before
    evaluate(arguments, TASK, output_path=tmp_path / "old", limit=3, device="cpu")
    assert read_run(tmp_path / "old").results["n-samples"][TASK]["effective"] == 3


def test_a_deep_path_makes_no_folder_that_cannot_be(tmp_path) -> None:
    deep = "/".join(["folder"] * 60)
    results: dict[str, Any] = {"config": {"model": "hf", "model_args": {"pretrained": deep}}, "configs": {}}
    write_run({**results, "results": {}, "samples": {}}, tmp_path)
    (home,) = tmp_path.iterdir()
    assert len(home.name) == MODEL_FOLDER and list(home.glob("results_*.json"))


def test_results_that_could_not_be_written_are_an_error(tmp_path, monkeypatch) -> None:
    def full(self, **_: Any) -> None:
        """As lm-eval's tracker on a full disk: a warning, and on it goes."""

    monkeypatch.setattr(EvaluationTracker, "save_results_samples", full)
    arguments = {"pretrained": str(model_path("text_split")), "dtype": "float32"}
    with pytest.raises(OSError, match="lm-eval wrote 0 of 2 samples"):
        evaluate(arguments, TASK, output_path=tmp_path / "out", limit=2, device="cpu")


def test_what_is_no_model_is_not_evaluated() -> None:
    from grains_eval.harness.evaluate import evaluate

    with pytest.raises(GrainsError, match="a model of type int cannot be evaluated; give load_model"):
        evaluate(3, ["mmlu"])  # type: ignore[arg-type]
