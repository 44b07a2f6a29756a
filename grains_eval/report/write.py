"""Write a report: HTML, Markdown, JSON and CSV beside each other."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

from grains_eval.errors import GrainsError
from grains_eval.files import finished, write_together
from grains_eval.plain_values import encodable
from grains_eval.report.data import ReportData
from grains_eval.report.html import render_html
from grains_eval.report.markdown import to_markdown
from grains_eval.report.summary import HEADER, summary
from grains_eval.types import Comparison


def to_csv(report: ReportData) -> str:
    """One row per comparison, numbers unrounded; methods without a result have a reason instead."""
    names = [item.name for item in fields(Comparison)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*names, "failed", "does_not_apply"])
    for row in report.rows:
        values = [getattr(row.comparison, name) for name in names]
        texts = [f"{v[0]!r} {v[1]!r}" if isinstance(v, tuple) else v for v in values]
        writer.writerow([*texts, "", ""])
    for method, reason, verdict in report.without_result:
        reasons = [reason, ""] if verdict == "failed" else ["", reason]
        writer.writerow([method if name == "method" else "" for name in names] + reasons)
    return buffer.getvalue()


def to_json(report: ReportData) -> str:
    """Everything but figures and heat maps; NaN becomes null."""
    content: dict[str, Any] = {
        "title": report.title,
        "headline": report.headline,
        "summary": [dict(zip(HEADER, row, strict=True)) for row in summary(report)],
        "created": report.created,
        "alpha": report.alpha,
        "margin": report.margin,
        "comparisons": [asdict(row.comparison) for row in report.rows],
        "targets": report.targets,
        "capability": [asdict(verdict) for verdict in report.verdicts],
        "against_controls": [
            {"method": a.method, "control": a.control, "comparison": asdict(a.row.comparison)}
            for a in report.against_controls
        ],
        "further_metrics": report.further_metrics,
        "failures": report.failures,
        "absent": report.absent,
        "bands": [
            {"label": band.label, "members": band.members, "low": list(band.low.values())}
            | {"mean": list(band.mean.values()), "high": list(band.high.values()), "keys": list(band.low)}
            for band in report.bands
        ],
        "changes": [asdict(item) for item in report.changes],
        "tables": [asdict(table) for table in report.tables],
        "curves": [asdict(curve) for curve in report.curves],
        "runs": [asdict(run) for run in report.runs],
        "notes": report.notes,
        "versions": report.versions,
        "extra": report.extra,
    }
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in cast(Sequence[Any], value)]
    if value is None or isinstance(value, str | int):
        return value
    return _plain(value.item()) if hasattr(value, "item") else str(value)


FILES: Mapping[str, Callable[[ReportData], str]] = {
    "report.html": render_html,
    "report.md": to_markdown,
    "report.json": to_json,
    "comparisons.csv": to_csv,
}


def refuse_existing(folder: Path, instead: str = "choose another --output_path or pass --overwrite") -> None:
    """Raise when a report is in the way, and say what to do instead.

    Raises:
        GrainsError: the folder holds one of the files, or is a file itself.
    """
    if folder.is_file():
        raise GrainsError(f"'{folder}' is a file; give a folder as --output_path")
    if found := finished(folder, FILES):
        raise GrainsError(f"'{folder / found[0]}' exists; {instead}")


def write(report: ReportData, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write all four files; they are rendered before anything is written.

    Args:
        report: The report.
        folder: Where to; made if it is not there.
        overwrite: Replace a report.

    Returns:
        The HTML file.

    Raises:
        GrainsError: a report is in the way.
    """
    place = Path(folder)
    if not overwrite:
        refuse_existing(place)
    write_together(place, {name: encodable(render(report)) for name, render in FILES.items()})
    return place / "report.html"
