"""Reading run folders, and refusing to compare unlike runs: one clear line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from grains_eval.comparison import compare
from grains_eval.comparison.runs import name_runs, read_run
from grains_eval.errors import GrainsError
from tests.comparison.folders import STAMP, TaskData, write_run

BASE = TaskData({"acc": [0.0, 1.0, 0.0, 1.0, 1.0]})
OTHER = TaskData({"acc": [1.0, 1.0, 0.0, 0.0, 1.0]})


def test_newest_results_are_taken(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE}, stamp="2026-01-01T00-00-00.000001")
    write_run(tmp_path / "a", {"t": OTHER}, stamp="2026-01-03T00-00-00.000001")
    write_run(tmp_path / "a", {"t": BASE}, stamp="2026-01-02T00-00-00.000001")
    run = read_run(tmp_path / "a")
    assert run.file.name == "results_2026-01-03T00-00-00.000001.json"
    assert [sample.values["acc"] for sample in run.samples("t")["none"]] == OTHER.values["acc"]


def test_a_results_file_and_a_json_output_path_work(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE})
    home = tmp_path / "a" / "org__model"
    assert read_run(home / f"results_{STAMP}.json").tasks == ("t",)
    # lm_eval --output_path x/mine.json writes x/mine_<date>.json
    (home / f"results_{STAMP}.json").rename(home / f"mine_{STAMP}.json")
    run = read_run(home / "mine.json")
    assert run.tasks == ("t",)
    assert len(run.samples("t")["none"]) == 5


def test_folders_that_hold_no_single_run(tmp_path: Path) -> None:
    with pytest.raises(GrainsError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GrainsError, match=r"holds no results_\*\.json"):
        read_run(tmp_path / "empty")
    write_run(tmp_path / "both" / "a", {"t": BASE})
    write_run(tmp_path / "both" / "b", {"t": BASE})
    with pytest.raises(GrainsError, match="holds several runs"):
        read_run(tmp_path / "both")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / f"results_{STAMP}.json").write_text("{")
    with pytest.raises(GrainsError, match="no results file"):
        read_run(tmp_path / "bad")


def test_missing_and_incomplete_samples(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE})
    write_run(tmp_path / "b", {"t": OTHER})
    samples = tmp_path / "b" / "org__model" / f"samples_t_{STAMP}.jsonl"
    lines = samples.read_text().splitlines()
    samples.write_text("\n".join(lines[:3]) + "\n")
    with pytest.raises(GrainsError, match="3 of 5 samples"):
        compare(tmp_path / "a", tmp_path / "b")
    samples.write_text("\n".join([*lines[:4], lines[4][:40]]))
    with pytest.raises(GrainsError, match="line 5 is not JSON"):
        compare(tmp_path / "a", tmp_path / "b")
    samples.write_text("\n".join(json.dumps({"doc_id": 1, "metrics": []}) for _ in lines))
    with pytest.raises(GrainsError, match="lacks 'doc_hash'"):
        compare(tmp_path / "a", tmp_path / "b")
    samples.write_text("")
    with pytest.raises(GrainsError, match="is empty"):
        compare(tmp_path / "a", tmp_path / "b")
    samples.unlink()
    with pytest.raises(GrainsError, match="run lm_eval again with --log_samples"):
        compare(tmp_path / "a", tmp_path / "b")


MISMATCHES: dict[str, tuple[str, Callable[[TaskData], TaskData]]] = {
    "different n": (
        "numbers of documents differ: 5 in 'a', 4 in 'b'",
        lambda t: replace(t, values={"acc": [1.0] * 4}),
    ),
    "few-shot": ("few-shot examples differ: 0 in 'a', 5 in 'b'", lambda t: replace(t, shots=5)),
    "version": ("versions differ: 1.0 in 'a', 2.0 in 'b'", lambda t: replace(t, metadata={"version": 2.0})),
    "filter": ("filters differ: none in 'a', strict in 'b'", lambda t: replace(t, filter="strict")),
    "prompt": (
        "document 0: prompts differ between 'a' and 'b'",
        lambda t: replace(t, prompts=[f"Question {i}" for i in range(5)]),
    ),
    "target": ("document 0: targets differ", lambda t: replace(t, targets=["1"] * 5)),
    "documents": (
        "5 of 5 documents of 'a' are not in 'b'",
        lambda t: replace(t, docs=[{"question": f"another {i}"} for i in range(5)]),
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_unlike_runs_are_refused(name: str, tmp_path: Path) -> None:
    message, change = MISMATCHES[name]
    write_run(tmp_path / "a", {"t": BASE})
    write_run(tmp_path / "b", {"t": change(OTHER)})
    with pytest.raises(GrainsError) as caught:
        compare(tmp_path / "a", tmp_path / "b")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)  # what was wrong; what to do


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("chat_template_sha", "abc", "chat templates differ: old in 'a', abc in 'b'"),
        ("system_instruction_sha", "abc", "system instructions differ: old in 'a', abc in 'b'"),
        ("fewshot_as_multiturn", True, "fewshot_as_multiturn differ: old in 'a', True in 'b'"),
    ],
)
def test_other_prompt_settings_are_refused(key: str, value: object, message: str, tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE}, **{key: "old"})
    write_run(tmp_path / "b", {"t": OTHER}, **{key: value})
    with pytest.raises(GrainsError, match=message):
        compare(tmp_path / "a", tmp_path / "b")
    # Where one run does not say, the prompts themselves decide.
    write_run(tmp_path / "c", {"t": BASE})
    assert compare(tmp_path / "c", tmp_path / "b")[0].n == 5
    write_run(tmp_path / "d", {"t": replace(OTHER, prompts=[f"<|user|>{i}" for i in range(5)])}, **{key: value})
    with pytest.raises(GrainsError, match=rf"prompts differ between 'c' and 'd' \({message.split(':')[0]}\)"):
        compare(tmp_path / "c", tmp_path / "d")


def test_mismatched_tasks(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE, "u": BASE})
    write_run(tmp_path / "b", {"t": OTHER})
    with pytest.raises(GrainsError, match="run 'b' lacks task 'u' of the other run"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(GrainsError, match="run 'b' lacks task 'u'"):
        compare(tmp_path / "b", tmp_path / "a")
    with pytest.raises(GrainsError, match="'u' is in run 'a' but not in 'b'"):
        compare(tmp_path / "a", tmp_path / "b", tasks=["u"])
    with pytest.raises(GrainsError, match="did you mean 't'"):
        compare(tmp_path / "a", tmp_path / "b", tasks=["tt"])
    assert [row.task for row in compare(tmp_path / "a", tmp_path / "b", tasks=["t"])] == ["t"]


def test_prompting_baselines_may_prompt_differently(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"t": BASE})
    prompted = replace(OTHER, prompts=[f"Tell the truth. {i}" for i in range(5)])
    write_run(
        tmp_path / "b",
        {"t": prompted},
        steering=[{"method": "prompt", "instruction": "Tell the truth."}],
        system_instruction_sha="abc",
    )
    (row,) = compare(tmp_path / "a", tmp_path / "b")
    assert row.n == 5
    write_run(tmp_path / "c", {"t": prompted})
    assert compare(tmp_path / "a", tmp_path / "c", prompts_may_differ=True)[0].n == 5


def test_runs_are_named_by_folder_and_method_whatever_else_is_compared(tmp_path: Path) -> None:
    for name, steering in (
        ("plain", None),
        ("one", [{"method": "grains"}]),
        ("two", [{"method": "caa"}]),
        ("CAA_strong", [{"method": "caa"}]),
    ):
        write_run(tmp_path / name, {"t": BASE}, steering=steering)
    runs = [read_run(tmp_path / name) for name in ("plain", "one", "two", "CAA_strong", "two")]
    assert name_runs(runs) == ["plain", "one (grains)", "two (caa)", "CAA_strong", "two (caa) (2)"]
    for count in (1, 2, 3, 4):
        assert name_runs(runs[:count]) == name_runs(runs)[:count]
    assert {row.method for row in compare(runs[0], runs[1])} == {"one (grains)"}
