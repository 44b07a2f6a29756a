"""What differs between two runs besides their steering: refused, or named with both values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grains_eval.comparison import Analysis, compare
from grains_eval.comparison.conditions import model_differences
from grains_eval.comparison.logs import read_run
from grains_eval.errors import GrainsError
from grains_eval.report import compare_runs
from tests.comparison.folders import TaskData, write_run

BASE = TaskData({"acc": [0.0, 1.0, 0.0, 1.0, 1.0]}, choices=(" yes", " no"))
MODEL = {"pretrained": "org/model"}


def notes(root: Path, first: dict[str, Any], second: dict[str, Any], task: TaskData = BASE) -> list[str]:
    """Notes of a comparison of two runs; `args` are model arguments, `task` a task's config, the rest the results'."""
    for name, changes in (("a", first), ("b", second)):
        given = dict(changes)
        arguments = {**MODEL, **given.pop("args", {})}
        data = replace(task, config=given.pop("task", {}), **given.pop("data", {}))
        config = {"model_args": arguments, **given.pop("config", {})}
        write_run(root / name, {"t": data}, config=config, steering=given.pop("steering", None), **given)
    return list(compare_runs([root / "a", root / "b"], root / "report").notes)


# What differs, and the line that names both values.
NOTED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"args": {"load_in_4bit": True}}, "load_in_4bit differs: not given in 'a', true in 'b'"),
    ({}, {"args": {"peft": "org/lora"}}, "peft differs: not given in 'a', org/lora in 'b'"),
    ({}, {"args": {"pretrained": "org/other"}}, "models differ: org/model in 'a', org/other in 'b'"),
    ({}, {"args": {"revision": "v2"}}, "revision differs: not given in 'a', v2 in 'b'"),
    ({}, {"args": {"attn_implementation": "eager"}}, "attn_implementation differs: not given in 'a', eager in 'b'"),
    ({}, {"args": {"something_new": 3}}, "something_new differs: not given in 'a', 3 in 'b'"),
    ({"config": {"model_sha": "aa"}}, {"config": {"model_sha": "bb"}}, "commits differ: aa in 'a', bb in 'b'"),
    ({"config": {"model": "hf"}}, {"config": {"model": "vllm"}}, "backends differ: hf in 'a', vllm in 'b'"),
    ({"config": {"torch_seed": 1234}}, {"config": {"torch_seed": 7}}, "torch_seed differs: 1234 in 'a', 7 in 'b'"),
    (
        {"config": {"model_dtype": "torch.float32"}},
        {"config": {"model_dtype": "torch.bfloat16"}},
        "number formats differ: torch.float32 in 'a', torch.bfloat16 in 'b'",
    ),
    ({}, {"lm_eval_version": "0.4.12"}, "lm_eval versions differ: 0.4.13 in 'a', 0.4.12 in 'b'"),
    (
        {"pretty_env_info": "PyTorch version: 2.8.0\nIs debug"},
        {"pretty_env_info": "PyTorch version: 2.9.0\nIs debug"},
        "torch versions differ: 2.8.0 in 'a', 2.9.0 in 'b'",
    ),
    ({}, {"task": {"dataset_path": "org/data"}}, "task 't': dataset_path differs: not given in 'a', org/data in 'b'"),
    # between releases, which write one task in different words, scoring is noted
    (
        {"task": {"repeats": 1}},
        {"task": {"repeats": 8}, "lm_eval_version": "0.5.0"},
        "task 't': repeats differs: 1 in 'a', 8 in 'b'",
    ),
    # another model may need to read otherwise
    (
        {},
        {"args": {"pretrained": "org/other", "add_bos_token": True}},
        "add_bos_token differs: not given in 'a', true in 'b'",
    ),
]


@pytest.mark.parametrize(("first", "second", "line"), NOTED, ids=[line.partition(":")[0] for _, _, line in NOTED])
def test_a_model_that_differs_is_named(
    first: dict[str, Any], second: dict[str, Any], line: str, tmp_path: Path
) -> None:
    assert line in notes(tmp_path, first, second)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"args": {"max_length": 512}}, "max_length differs: not given in 'a', 512 in 'b'; use the same max_length"),
    ({"max_length": 4096}, {"max_length": 512}, "max_length differs: 4096 in 'a', 512 in 'b'; use the same max_length"),
    ({}, {"args": {"add_bos_token": True}}, "add_bos_token differs: not given in 'a', true in 'b'; use the same"),
    ({"task": {"repeats": 1}}, {"task": {"repeats": 8}}, "task 't': repeats differs: 1 in 'a', 8 in 'b'; use one"),
    (
        {"task": {"generation_kwargs": {"max_gen_toks": 256}}},
        {"task": {"generation_kwargs": {"max_gen_toks": 16}}},
        "task 't': generation_kwargs differs: ",
    ),
    ({}, {"data": {"choices": (" yes", " perhaps")}}, "task 't', document 0: choices differ between 'a' and 'b'"),
]


@pytest.mark.parametrize(("first", "second", "line"), REFUSED, ids=[line.partition(":")[0] for _, _, line in REFUSED])
def test_what_makes_numbers_incomparable_is_refused(
    first: dict[str, Any], second: dict[str, Any], line: str, tmp_path: Path
) -> None:
    with pytest.raises(GrainsError) as caught:
        notes(tmp_path, first, second)
    assert line in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "report").exists()


def test_both_ends_of_a_long_difference_are_shown(tmp_path: Path) -> None:
    settings = [{"until": ["Question:", "</s>"], "do_sample": False, "max_gen_toks": n} for n in (256, 16)]
    with pytest.raises(
        GrainsError, match=r"max_gen_toks\": 256\} in 'a', .*max_gen_toks\": 16\} in 'b'; use one version"
    ):
        notes(tmp_path, *({"task": {"generation_kwargs": each}} for each in settings))


@pytest.mark.parametrize(
    "second",
    [
        {"args": {"batch_size": 8, "device": "cuda:1", "max_batch_size": 64}},
        {"args": {"vectors": "v", "strength": 2, "layers": "3"}, "steering": [{"method": "grains", "layers": [3]}]},
        {"args": {"add_bos_token": False, "load_in_4bit": "false", "peft": None}},
        {"config": {"model": "grains_hf", "batch_size": 4, "use_cache": "x", "scoring_path_reason": "because"}},
        {"date": 2.0, "total_evaluation_time_seconds": "9", "task": {"doc_to_text": "{{q}}", "metadata": {"a": 1}}},
        {"config": {"model_args": "pretrained=org/model,batch_size=2"}},
    ],
)
def test_what_changes_no_number_is_not_mentioned(second: dict[str, Any], tmp_path: Path) -> None:
    assert [note for note in notes(tmp_path, {}, second) if "does not say which documents" not in note] == []


def test_model_arguments_may_be_a_string(tmp_path: Path) -> None:
    text = {"config": {"model_args": "pretrained=org/model,chat_template_args={'a': 1, 'b': 2},load_in_8bit=True"}}
    with pytest.raises(GrainsError, match=r"chat_template_args differs: not given in 'a', \{'a': 1, 'b': 2\} in 'b'"):
        notes(tmp_path, {}, text)
    text = {"config": {"model_args": "pretrained=org/model,load_in_8bit=True"}}
    assert notes(tmp_path / "two", {}, text) == ["load_in_8bit differs: not given in 'a', True in 'b'"]
    assert "does not record its model arguments" in notes(tmp_path / "none", {}, {"config": {"model_args": {}}})[0]


def test_one_note_for_many_tasks(tmp_path: Path) -> None:
    for name, path in (("a", "x"), ("b", "y")):
        task = replace(BASE, config={"dataset_path": path})
        write_run(tmp_path / name, {"t": task, "u": task, "v": task})
    said = compare_runs([tmp_path / "a", tmp_path / "b"]).notes
    assert said == ("task 't' and 2 more: dataset_path differs: x in 'a', y in 'b'",)


INSTRUCTED = {"steering": [{"method": "prompt", "instruction": "Tell the truth."}]}


@pytest.mark.parametrize(
    ("second", "line"),
    [
        ({"data": {"shots": 5}}, "few-shot examples differ: 0 in 'a', 5 in 'b .*'; use the same --num_fewshot"),
        ({"chat_template_sha": "abc"}, "chat templates differ: none in 'a', abc in 'b .*'; use the same --apply_chat"),
        ({"task": {"description": "Be kind."}}, "task 't': description differs: not given in 'a', Be kind. in 'b "),
    ],
)
def test_a_prompting_run_differs_in_its_instruction_alone(second: dict[str, Any], line: str, tmp_path: Path) -> None:
    prompted = {"prompts": [f"Tell the truth. {i}" for i in range(5)]}
    assert notes(tmp_path / "alone", {}, {**INSTRUCTED, "data": prompted}) == []
    with pytest.raises(GrainsError, match=line):
        notes(tmp_path / "more", {}, {**INSTRUCTED, **second, "data": {**prompted, **second.get("data", {})}})


def test_prompts_that_may_differ_are_noted(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE})
    shots = replace(BASE, shots=5, prompts=[f"shots {i}" for i in range(5)])
    write_run(tmp_path / "b", {"t": shots}, chat_template_sha="abc")
    said = compare_runs([tmp_path / "a", tmp_path / "b"], analysis=Analysis(prompts_may_differ=True)).notes
    assert "task 't': few-shot examples differ: 0 in 'a', 5 in 'b'" in said
    assert "chat templates differ: none in 'a', abc in 'b'" in said


EARLY, LATE = "2026-01-01T00-00-00.000001", "2026-01-02T00-00-00.000001"


def test_evaluations_of_different_tasks_into_one_folder_are_one_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, {"t": BASE}, stamp=EARLY)
        write_run(tmp_path / name, {"u": BASE}, stamp=LATE)
    run = read_run(tmp_path / "a")
    assert set(run.tasks) == {"t", "u"} and run.notes == ()
    assert [file.name for file in run.files] == [f"results_{LATE}.json", f"results_{EARLY}.json"]
    report = compare_runs([tmp_path / "a", tmp_path / "b"])
    assert {row.comparison.task for row in report.rows} == {"t", "u"}
    assert report.notes == ()
    assert EARLY in report.runs[0].file and LATE in report.runs[0].file
    alone = read_run(tmp_path / "a" / "org__model" / f"results_{EARLY}.json")
    assert (
        alone.tasks == ("t",)
        and alone.digest != run.digest != read_run(alone.file.with_name(f"results_{LATE}.json")).digest
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"steering": [{"method": "grains", "strength": 1}]}, "steering differs: "),
        ({"config": {"model_args": {**MODEL, "load_in_4bit": True}}}, "load_in_4bit differs: not given in "),
        ({"chat_template_sha": "abc"}, "chat_template_sha differs: not given in "),
    ],
)
def test_an_evaluation_under_other_conditions_is_named_not_mixed_in(
    changes: dict[str, Any], line: str, tmp_path: Path
) -> None:
    write_run(tmp_path / "a", {"u": BASE})
    write_run(tmp_path / "b", {"t": BASE}, stamp=EARLY, **changes)
    write_run(tmp_path / "b", {"u": BASE}, stamp=LATE)
    assert read_run(tmp_path / "b").tasks == ("u",)
    (said,) = compare_runs([tmp_path / "a", tmp_path / "b"]).notes
    assert said.startswith(f"results_{EARLY}.json is left out of 'b': it evaluated t under other conditions ({line}")


def test_a_task_that_was_evaluated_again_is_read_from_the_newest(tmp_path: Path) -> None:
    group = {"g": (["t", "u"], {"acc,none": 0.6})}
    for name in ("a", "b"):
        write_run(tmp_path / name, {"t": BASE, "u": BASE, "v": BASE}, groups=group, stamp=EARLY)
    again = replace(BASE, values={"acc": [1.0] * 5})
    write_run(tmp_path / "b", {"u": again}, stamp=LATE)
    run = read_run(tmp_path / "b")
    assert set(run.tasks) == {"t", "u", "v"} and not run.results.get("groups")
    assert [sample.values["acc"] for sample in run.samples("u")["none"]] == [1.0] * 5
    rows = {row.task: row for row in compare(tmp_path / "a", tmp_path / "b")}
    assert (rows["u"].steered, rows["t"].steered) == (1.0, pytest.approx(0.6))
    write_run(tmp_path / "b", {"t": BASE, "v": BASE}, stamp="2026-01-03T00-00-00.000001")
    assert f"results_{EARLY}.json is left out of 'b': its tasks were evaluated again" in read_run(tmp_path / "b").notes
    (tmp_path / "b" / "org__model" / f"results_{EARLY}.json").write_text("{")
    assert "it is not a results file" in read_run(tmp_path / "b").notes[0]


def test_an_integer_that_no_float_holds_is_a_difference_like_others() -> None:
    first, second = ({"config": {"model_args": {"pretrained": "m", "seed": seed}}} for seed in (1, 10**400))
    assert [each.name for each in model_differences(first, second)] == ["seed"]
