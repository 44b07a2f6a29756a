"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache, partial
from hashlib import sha256
from importlib.resources import files
from typing import Any

from grains_eval.comparison.verdict import answer
from grains_eval.report import plots
from grains_eval.report.data import Curve, CurvePage, ReportData, TokenMap
from grains_eval.report.formatting import level, number, share
from grains_eval.report.items import item_tables
from grains_eval.report.summary import HEADER, summary
from grains_eval.report.tables import (
    COLUMNS,
    SKILLS,
    SKILLS_NOTE,
    band_cells,
    band_lines,
    caption,
    cells,
    claims,
    control_lines,
    procedure_lines,
    verdict_cells,
)
from grains_eval.report.token_maps import drawing
from grains_eval.types import Comparison


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment: Any = Environment(
        loader=PackageLoader("grains_eval.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = share
    environment.filters["number"] = number
    environment.filters["breakable"] = _breakable
    environment.filters["short"] = lambda value: number(value, 3).rstrip("0").rstrip(".")
    return environment


@lru_cache(maxsize=1)
def _script() -> str:
    return (files("grains_eval.report") / "templates" / "items.js").read_text(encoding="utf-8")


def _breakable(text: str) -> Any:
    """A name that may break after `_` and `=`."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_=])(?=[^_=])", text))


def render_html(report: ReportData) -> str:
    """The whole report; every text is escaped, every figure is part of the file."""
    rows = [row.comparison for row in report.rows]
    figures = _figures(report, rows)
    tables = [_embedded(found) for found in item_tables(report)]
    script = _script()
    table: list[dict[str, Any]] = [
        {
            "row": row,
            "cells": cells(row, report),
            "answer": answer(row, report.alpha),
            "control": row.method in report.controls,
            "details": _details(row),
        }
        for row in rows
    ]
    drawn = {member for band in report.bands for member in band.members}
    draws = [entry for entry in table if entry["cells"][2] in drawn]
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            columns=COLUMNS,
            table=table,
            groups=_grouped([entry for entry in table if entry["cells"][2] not in drawn], report),
            draws=_grouped(draws),
            caption=caption(report),
            summary=summary(report),
            summary_header=HEADER,
            lines=[*control_lines(report), *band_lines(report)],
            procedures=procedure_lines(report),
            skills=SKILLS,
            skills_note=SKILLS_NOTE,
            claims=claims(report),
            verdicts=[cell for cell in verdict_cells(report) if cell[2] not in drawn],
            forests=[
                {"title": f"{task}, {metric}", "svg": _forest(report, rows, (task, metric), index)}
                for index, (task, metric) in enumerate(figures)
            ],
            curves=_curves(report.curves),
            changes=[
                {"changes": item, "svg": plots.on_both(partial(plots.sorted_changes, item), f"items{index}")}
                for index, item in enumerate(report.changes)
            ],
            item_tables=tables,
            script=script,
            script_hash=f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}" if tables else "",
            heat_maps=[drawing(drawn) for drawn in report.token_maps],
        )
    )


def render_heat_maps(title: str, maps: Sequence[TokenMap]) -> str:
    """Heat maps alone, as one HTML file."""
    return _environment().get_template("maps.html").render(title=title, heat_maps=[drawing(drawn) for drawn in maps])


def render_curves(page: CurvePage) -> str:
    """Curves alone, as one HTML file."""
    return _environment().get_template("curves.html").render(page=page, curves=_curves(page.curves))


def _curves(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    return [
        {"curve": drawn, "svg": plots.on_both(partial(plots.curve, drawn), f"curve{index}")}
        for index, drawn in enumerate(curves)
    ]


def _embedded(table: dict[str, Any]) -> dict[str, Any]:
    """A table of items as JSON that no text in it can end."""
    from jinja2.utils import htmlsafe_json_dumps

    dumped = htmlsafe_json_dumps(table, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return {"title": f"{table['task']}, {table['metric']}", "json": dumped}


def _grouped(table: Sequence[dict[str, Any]], report: ReportData | None = None) -> list[dict[str, Any]]:
    """Rows under a heading per task and metric; with a report also its bands, one row each."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in table:
        groups.setdefault((row["row"].task, row["row"].metric), []).append(row)
    return [
        {
            "title": ", ".join(key),
            "rows": rows,
            "bands": [
                band_cells(report, band, key, rows[0]["row"])
                for band in (report.bands if report else ())
                if report is not None and key in band.mean
            ],
        }
        for key, rows in groups.items()
    ]


def _figures(report: ReportData, rows: Sequence[Comparison]) -> list[tuple[str, str]]:
    """Tasks that get a figure: targets and preserved skills; every row where there are neither."""
    keys = [*report.targets, *((v.task, v.metric) for v in report.verdicts)]
    return list(dict.fromkeys(keys or [(row.task, row.metric) for row in rows]))


def _forest(report: ReportData, rows: Sequence[Comparison], key: tuple[str, str], index: int) -> dict[str, str]:
    chosen = [row for row in rows if (row.task, row.metric) == key]
    draw = plots.forest(chosen, report.controls, report.bands, report.alpha)
    return plots.on_both(draw, f"forest{index}")


def _details(row: Comparison) -> str:
    """What else stands behind a row's numbers, as one line."""
    parts = [
        f"standard error {level(row.standard_error, row.scale)}",
        f"80 % power for a change of {level(row.minimum_detectable_effect, row.scale)}",
    ]
    if row.excluded:
        parts.append(f"{row.excluded:,} items left out")
    return "; ".join(parts)
