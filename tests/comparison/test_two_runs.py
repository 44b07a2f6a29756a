"""Real runs: lm-eval's own `hf` and our `grains_hf` on tiny models, compared and reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from grains_eval.comparison import Analysis, compare
from grains_eval.comparison.logs import read_run
from grains_eval.report import compare_runs

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}} answer"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: brier_score, aggregation: brier_score, higher_is_better: false}}
metadata: {{version: 1.0, cluster_key: topic}}
"""
GENERATION = """
task: report_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
generation_kwargs: {{max_gen_toks: 6, until: ["@"]}}
doc_to_text: "{{{{question}}}} answer"
doc_to_target: "{{{{reference}}}}"
metric_list:
  - {{metric: bleu}}
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""
GROUP = """
group: report_group
task: [report_small, report_large]
aggregate_metric_list:
  - {metric: acc, weight_by_size: false}
metadata: {version: 1.0}
"""
WORDS = ["paris", "rome", "london", "red", "blue", "green", "cat", "dog"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    generator = np.random.default_rng(0)
    for name, count in (("report_small", 9), ("report_large", 21), ("report_text", 12)):
        file = folder / f"{name}.jsonl"
        rows = [
            {
                "question": f"what is the {generator.choice(WORDS)} number {i}",
                "choices": generator.choice(WORDS, 3, replace=False).tolist(),
                "gold": int(generator.integers(3)),
                "topic": f"topic {i % 4}",
                "reference": " ".join(generator.choice(WORDS, 6)),
            }
            for i in range(count)
        ]
        file.write_text("\n".join(json.dumps(row) for row in rows))
        text = GENERATION if name == "report_text" else CHOICE
        (folder / f"{name}.yaml").write_text(text.format(name=name, file=file))
    (folder / "group.yaml").write_text(GROUP)
    return folder


def lm_eval(model: str, arguments: str, tasks: Path, output: Path, *flags: str) -> Path:
    """Run the command line as a user does."""
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments,
        "--tasks", "report_group,report_text", "--include_path", str(tasks), "--output_path", str(output),
        "--log_samples", "--device", "cpu", "--batch_size", "8", *flags,
    ]  # fmt: skip
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "HF_DATASETS_CACHE": str(tasks / "cache"), "DISABLE_MULTIPROC": "1",
    }  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return output


@pytest.fixture(scope="module")
def plain_runs(tasks: Path, tiny_text: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("plain")
    return [
        lm_eval("hf", f"pretrained={tiny_text(name)},dtype=float32", tasks, root / name) for name in ("llama", "qwen2")
    ]


@pytest.mark.slow
def test_two_plain_runs_of_lm_eval_compare(plain_runs: list[Path], tmp_path: Path) -> None:
    report = compare_runs(plain_runs, tmp_path / "report", analysis=Analysis(subtasks=True, all_metrics=True))
    rows = {(row.comparison.task, row.comparison.metric): row.comparison for row in report.rows}
    first, second = (read_run(path).results["results"] for path in plain_runs)
    assert set(rows) == {
        ("report_group", "acc"),
        ("report_small", "acc"),
        ("report_small", "brier_score"),
        ("report_large", "acc"),
        ("report_large", "brier_score"),
        ("report_text", "bleu"),
        ("report_text", "exact_match"),
    }
    for (task, metric), row in rows.items():
        # Brier's probabilities are logged with eight digits.
        tolerance = 1e-6 if metric == "brier_score" else 1e-9
        assert row.baseline == pytest.approx(first[task][f"{metric},none"], abs=tolerance)
        assert row.steered == pytest.approx(second[task][f"{metric},none"], abs=tolerance)
        assert row.difference == pytest.approx(row.steered - row.baseline, abs=1e-9)
    assert rows["report_small", "acc"].clusters == 4
    assert any("models differ" in note for note in report.notes)
    assert not any("left out" in note for note in report.notes)
    assert "report_group" in (tmp_path / "report" / "report.html").read_text()
    # Margins come from real log-likelihoods: nearly every item moved between two random models.
    changes = next(c for c in report.changes if c.task == "report_large")
    assert changes.unit == "nats" and min(abs(push) for push in changes.pushes) > 0


@pytest.mark.slow
def test_bleu_of_a_real_run_is_sacrebleus(plain_runs: list[Path]) -> None:
    (row,) = compare(*plain_runs, tasks=["report_text"], metrics=["bleu"])
    items = [sample.values["bleu"] for sample in read_run(plain_runs[0]).samples("report_text")["none"]]
    references = [item[0] if isinstance(item[0], str) else item[0][0] for item in items]
    predictions = [item[1] if isinstance(item[1], str) else item[1][0] for item in items]
    assert row.baseline == pytest.approx(sacrebleu.corpus_bleu(predictions, [references]).score, abs=1e-9)


@pytest.mark.slow
def test_a_run_against_itself_shows_nothing(plain_runs: list[Path]) -> None:
    report = compare_runs({"first": plain_runs[0], "second": plain_runs[0]})
    assert all(row.comparison.p == 1 for row in report.rows)
    assert "no change" in report.headline


@pytest.mark.slow
def test_other_few_shot_and_limit_are_refused(
    plain_runs: list[Path], tasks: Path, tiny_text: Callable[[str], Path], tmp_path: Path
) -> None:
    from grains_eval.errors import GrainsError

    model = f"pretrained={tiny_text('llama')},dtype=float32"
    limited = lm_eval("hf", model, tasks, tmp_path / "limited", "--limit", "5")
    with pytest.raises(GrainsError, match="numbers of documents differ: 9 in 'llama', 5 in 'limited'"):
        compare(plain_runs[0], limited)
    shots = lm_eval("hf", model, tasks, tmp_path / "shots", "--num_fewshot", "1", "--limit", "5")
    with pytest.raises(GrainsError, match="few-shot examples differ: 0 in 'limited', 1 in 'shots'"):
        compare(limited, shots)


@pytest.mark.slow
def test_vectors_exclude_what_built_them(
    plain_runs: list[Path], tasks: Path, tiny_text: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch

    from grains_eval.artifacts.save import save_vectors
    from grains_eval.types import SteeringVectors

    known = [sample.doc_hash for sample in read_run(plain_runs[0]).samples("report_large")["none"][:4]]
    vectors = SteeringVectors(
        directions={1: torch.ones(32)},
        scales={1: 1.0},
        provenance={"method": "grains", "doc_hashes": {"build": known[:3], "development": known[3:]}},
    )
    save_vectors(vectors, tmp_path / "vectors")
    steered = lm_eval(
        "grains_hf",
        f"pretrained={tiny_text('llama')},dtype=float32,vectors={tmp_path / 'vectors'},strength=2.0",
        tasks,
        tmp_path / "steered",
    )
    rows = {(row.task, row.metric): row for row in compare(plain_runs[0], steered, subtasks=True)}
    assert rows["report_large", "acc"].excluded == 4
    assert rows["report_large", "acc"].n == 17
    assert rows["report_small", "acc"].excluded == 0
    assert rows["report_group", "acc"].n == 26
    assert rows["report_large", "acc"].method == "steered (grains)"
