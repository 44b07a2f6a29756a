"""The tasks through lm-eval itself, on a tiny model and local copies of the data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable, hash_string

from grains_eval.examples import load_examples
from grains_eval.models import LoadedModel
from grains_eval.recipes import load_recipe
from grains_eval.tasks_path import task_directory
from tests import localdata
from tests.instances import HARNESS, own_names
from tests.tasks.conftest import index_of

Run = Callable[..., dict[str, Any]]
BEHAVIOURS = sorted(task_directory().glob("*/recipe*.yaml"))


@pytest.fixture
def evaluate(loaded_text: Callable[[str], LoadedModel], manager: TaskManager, local_data: Path) -> Run:
    def run(*tasks: str, task_manager: TaskManager = manager, **options: Any) -> dict[str, Any]:
        results = lm_eval.simple_evaluate(
            model=loaded_text("llama").lm,
            tasks=list(tasks),
            task_manager=task_manager,
            batch_size=4,
            bootstrap_iters=0,
            gen_kwargs={"max_gen_toks": 6},
            **options,
        )
        assert results is not None
        json.dumps(results, default=handle_non_serializable)
        return results

    return run


def test_text_tasks_give_all_their_metrics(evaluate: Run, tiny_classifier: Path):
    results = evaluate("toxigen_classification", "toxigen_preference", "toxigen_generation", "faitheval")
    found = {
        task: {key.split(",")[0] for key in metrics if key.endswith(",none") and "_stderr" not in key}
        for task, metrics in own_names(results["results"]).items()
    }
    assert found == {
        "toxigen_classification": {"acc", "acc_norm", "balanced_acc"},
        "toxigen_preference": {"acc", "acc_norm"},
        "toxigen_generation": {"toxicity", "toxic", "empty"},
        "faitheval": set(),  # a mean over tasks that mean different things would say nothing
        "faitheval_unanswerable": {"strict", "non_strict"},
        "faitheval_inconsistent": {"strict", "non_strict"},
        "faitheval_counterfactual": {"strict", "non_strict"},
        "faitheval_counterfactual_mc": {"acc"},
        "faitheval_answerable": {"abstain_strict", "abstain_non_strict", "answer_acc"},
    }
    samples = own_names(results["samples"])
    toxicity = [sample["toxicity"] for sample in samples["toxigen_generation"]]
    assert len(toxicity) == 8 and all(0 <= value <= 1 for value in toxicity)
    mean = sum(toxicity) / len(toxicity)
    assert results["results"]["toxigen_generation"]["toxicity,none"] == pytest.approx(mean)
    pairs = [sample["balanced_acc"] for sample in samples["toxigen_classification"]]
    assert [gold for gold, _ in pairs].count(1) == 9
    shared = {sample["doc_hash"] for sample in samples["faitheval_counterfactual_mc"]}
    assert shared == {sample["doc_hash"] for sample in samples["faitheval_answerable"]}
    first = samples["faitheval_unanswerable"][0]
    assert first["doc_hash"] == hash_string(json.dumps(first["doc"], indent=2, ensure_ascii=False))


def test_classifier_work_is_batched(evaluate: Run, tiny_classifier: Path, monkeypatch: pytest.MonkeyPatch):
    from grains_eval.task_support import toxicity

    calls: list[int] = []
    score = toxicity.Classifier.score

    def counted(self: toxicity.Classifier, texts: list[str]) -> list[float]:
        calls.append(len([text for text in texts if text not in self.scores]))
        return score(self, texts)

    monkeypatch.setattr(toxicity.Classifier, "score", counted)
    evaluate("toxigen_generation")
    assert calls[0] > 1 and not any(calls[1:])  # all new texts at once; later calls only look scores up


def test_the_harness_tasks_of_the_recipes_run_on_a_copy(evaluate: Run, data: Path, monkeypatch, tmp_path: Path):
    """`load_dataset` takes a folder of the dataset's name in the working directory before the hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.chdir(data)
    manager = TaskManager(include_path=str(localdata.HARNESS / "truthfulqa"), include_defaults=False)
    results = evaluate("truthfulqa_mc1", "truthfulqa_mc2", "truthfulqa_gen", task_manager=manager)
    assert "bleu_acc,none" in results["results"]["truthfulqa_gen"]
    assert 0 <= results["results"]["truthfulqa_mc1"]["acc,none"] <= 1
    assert len(results["samples"]["truthfulqa_gen"]) == 8


def test_unjudged_tasks_insist_on_samples(evaluate: Run):
    class Multimodal:
        MULTIMODAL = True

    with pytest.raises(ValueError, match="log_samples must be True"):
        evaluate("mmhal_bench", log_samples=False)


@pytest.fixture(scope="module")
def everything() -> TaskManager:
    return TaskManager(include_path=str(task_directory()))


@pytest.mark.slow
def test_preservation_groups_hold_the_harness_tasks(
    everything: TaskManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(localdata.write(tmp_path, "mmlu", "mmmu"))
    text = everything.load("preserve_text")
    assert text["group_map"]["preserve_text"] == ["mmlu"] and len(text["tasks"]) == 57
    virology = own_names(text["tasks"])["mmlu_virology"]
    assert virology.doc_to_target(virology.eval_docs[0]) == 1
    if HARNESS >= (0, 5):  # 0.5.0.dev1 cannot load its own mmmu_val, whose metric it does not take
        with pytest.raises(ValueError, match="metric acc is defined"):
            everything.load("preserve_vision")
        return
    vision = everything.load("preserve_vision")
    assert vision["group_map"]["preserve_vision"] == ["mmmu_val"] and len(vision["tasks"]) == 30
    art = vision["tasks"]["mmmu_val_art"]
    assert len(art.doc_to_image(art.eval_docs[0])) == 1


@pytest.mark.parametrize("path", BEHAVIOURS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_recipes_are_valid_and_name_known_tasks_and_metrics(path: Path, everything: TaskManager):
    recipe = load_recipe(path)
    known = set(everything.all_tasks)
    for name in [recipe.data.task, *recipe.evaluation.tasks, *recipe.evaluation.preserve]:
        assert name is None or name in known, name
    for name, metric in recipe.evaluation.metrics.items():
        assert name in recipe.evaluation.tasks
        config = index_of(everything)[name].cfg
        assert config is not None
        listed = {entry["metric"] for entry in config.get("metric_list") or []}
        assert metric in listed, (name, metric)
    if "demo" in path.parts:
        return
    assert (recipe.data.examples, recipe.data.development) == (50, 100)
    vision = path.parent.name in ("spa_vl", "mmhal_bench")
    assert recipe.attribution.top_k == (50 if vision else 10)  # the paper's k
    assert recipe.prompting is not None and recipe.prompting.instruction


@pytest.mark.parametrize("path", sorted({recipe.parent for recipe in BEHAVIOURS}), ids=lambda path: path.name)
def test_every_behaviour_has_a_readme(path: Path):
    assert (path / "README.md").is_file()


@pytest.mark.slow
@pytest.mark.skipif(HARNESS >= (0, 5), reason="lm_eval 0.5.0.dev1 cannot build generation tasks with pictures")
def test_picture_tasks_generate_and_keep_what_a_judge_reads(
    tiny_vision: Callable[[str], Path], manager: TaskManager, local_data: Path
):
    tasks = ["spa_vl_generation", "spa_vl_harm", "spa_vl_help", "mmhal_bench"]
    results = lm_eval.simple_evaluate(
        model="hf-multimodal",
        model_args={"pretrained": str(tiny_vision("llava_next")), "dtype": "float32", "device": "cpu"},
        tasks=tasks,
        task_manager=manager,
        limit=2,
        bootstrap_iters=0,
        apply_chat_template=True,
        gen_kwargs={"max_gen_toks": 4},
    )
    assert results is not None
    assert 0 <= results["results"]["spa_vl_generation"]["bleu_acc,none"] <= 1
    assert "empty,none" in results["results"]["mmhal_bench"]
    assert not any("bypass" in key for key in results["results"]["mmhal_bench"])
    sample = results["samples"]["mmhal_bench"][1]
    read_by_judge = {"question_type", "image_content", "question", "gt_answer"}
    assert read_by_judge <= set(sample["doc"]) and isinstance(sample["filtered_resps"][0], str)
    assert sample["doc_hash"] == hash_string(json.dumps(sample["doc"], indent=2, ensure_ascii=False))


@pytest.mark.parametrize("name", ["toxigen", "faitheval", "truthfulqa", "spa_vl", "mmhal_bench"])
def test_recipes_draw_their_examples(
    name: str, everything: TaskManager, local_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr("grains_eval.examples.tasks.task_manager", lambda *_: everything)
    monkeypatch.chdir(local_data)
    sizes = ["data.examples=4", "data.development=3"]
    drawn = load_examples(load_recipe(task_directory() / name / "recipe.yaml", sizes).data)
    hashes = drawn.doc_hashes()
    assert (len(drawn.build), len(drawn.development)) == (4, 3)
    assert not set(hashes["build"]) & set(hashes["development"])
    for example in (*drawn.build, *drawn.development):
        assert example.chosen != example.rejected and example.chosen.startswith(" ")
        assert len(example.images) == (1 if name in ("spa_vl", "mmhal_bench") else 0)
        assert (example.cluster is None) == (name in ("faitheval", "truthfulqa"))
    if name == "faitheval":
        letters = {example.rejected.strip() for example in (*drawn.build, *drawn.development)}
        assert len(letters) > 2  # the first wrong choice would nearly always be A
