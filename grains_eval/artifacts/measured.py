"""What a report measured of an artifact, as the hub's `model-index` and as a table of its card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from huggingface_hub import EvalResult, ModelCard

from grains_eval.errors import GrainsError

_HEADING = "## Measured"


@dataclass(frozen=True)
class Measured:
    """One row of a report.

    Attributes:
        setting: Layers and strength, as the report writes them (`3: 1`).
        role: What the vectors stand for there, `method` or `control`.
        level: Level of the interval, in per cent.
        row: The comparison: task, metric, baseline, steered, difference, interval, n, clusters, adjusted_p, test.
    """

    setting: str
    role: str
    level: float
    row: Mapping[str, Any]


def read_measured(report: Path, fingerprint: str) -> list[Measured]:
    """The rows of a `report.json` in which these vectors alone steered.

    Args:
        report: The file, or the folder that `grains-eval compare` wrote.
        fingerprint: Of the vectors.

    Raises:
        GrainsError: no such file, no report, or one about other vectors.
    """
    file = report / "report.json" if report.is_dir() else report
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        level = 100 * (1 - float(content["alpha"]))
        rows: list[Mapping[str, Any]] = content["comparisons"]
        runs = {str(run["name"]): run for run in content["runs"]}
        ours = {name for name, run in runs.items() if _is_steered_by(run, fingerprint)}
        found = [
            Measured(str(runs[row["method"]]["setting"]), str(runs[row["method"]]["role"]), level, row)
            for row in rows
            if row["method"] in ours
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise GrainsError(
            f"'{report}' is no report of grains-eval compare ({type(error).__name__}: {error})"
        ) from error
    if not found:
        raise GrainsError(
            f"'{report}' has no row of these vectors alone (fingerprint {fingerprint}); give their report"
        )
    return found


def _is_steered_by(run: Mapping[str, Any], fingerprint: str) -> bool:
    vectors = [
        str(text) for label, text in cast(Sequence[Sequence[Any]], run["facts"]) if str(label).startswith("vector ")
    ]
    return len(vectors) == 1 and f"fingerprint {fingerprint}" in vectors[0]


def with_measured(card: str, name: str, sees_images: bool, measured: Sequence[Measured]) -> str:
    """A card with measured results in its metadata and in a table.

    Args:
        card: The card, with its YAML header.
        name: The model's name in `model-index`.
        sees_images: Whether the base model does.
        measured: What was measured.
    """
    made = ModelCard(card)
    made.data.model_name = name  # pyright: ignore[reportAttributeAccessIssue]  # the type depends on the kind of card
    made.data.eval_results = [_result(one, sees_images) for one in measured]  # pyright: ignore[reportAttributeAccessIssue]
    text = str(made).partition(f"\n{_HEADING}\n")[0].rstrip()
    return f"{text}\n\n{_HEADING}\n\n" + "\n".join(_table(measured)) + "\n"


def _result(one: Measured, sees_images: bool) -> EvalResult:
    row = one.row
    return EvalResult(
        task_type="image-text-to-text" if sees_images else "text-generation",
        dataset_type=str(row["task"]),
        dataset_name=str(row["task"]),
        metric_type=str(row["metric"]),
        metric_value=row["steered"],
        metric_name=f"{row['metric']} ({one.setting}), {_difference(one)} against {row['baseline']:.4g} unsteered",
        metric_args={
            key: row.get(key)
            for key in ("baseline", "difference", "interval", "n", "clusters", "adjusted_p", "test", "higher_is_better")
        },
    )


def _difference(one: Measured) -> str:
    low, high = one.row["interval"]
    shown = f"{one.row['difference']:+.4g}"
    return shown if None in (low, high) else f"{shown} ({one.level:g} % interval {low:.4g} to {high:.4g})"


def _table(measured: Sequence[Measured]) -> Iterator[str]:
    yield "| task | metric | layers: strength | unsteered | steered | difference | n | adjusted p |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in measured:
        row = one.row
        p = "–" if row["adjusted_p"] is None else f"{row['adjusted_p']:.2g}"
        yield (
            f"| {row['task']} | {row['metric']} | {one.setting} | {row['baseline']:.4g} | {row['steered']:.4g} | "
            f"{_difference(one)} | {row['n']} | {p} |"
        )
    yield ""
    yield "Paired with the unsteered model; p by Holm over the report's rows; documents that built them are left out."
