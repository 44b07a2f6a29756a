"""Figures as SVG: told apart by marker, dash and hatch as well as by colour, and readable on dark paper.

An SVG shrinks with the page, text included, so each figure is drawn twice and the style sheet shows the one that fits.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grains_eval.comparison.controls import Band
from grains_eval.comparison.significance import Array
from grains_eval.comparison.verdict import answer
from grains_eval.report.data import Changes, Curve
from grains_eval.types import Comparison

# Okabe and Ito's colour-blind safe colours that keep their contrast on white and on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
HELPED, HARMED = COLOURS[0], COLOURS[1]
# Replaced by the page's own text colour after drawing.
INK = "#010203"
# Colours that the page brightens on dark paper.
_VARIABLES = {"#0072b2": "var(--blue)", "#d55e00": "var(--red)", "#009e73": "var(--green)"}
POINTS_DRAWN = 300


@dataclass(frozen=True)
class Paper:
    """How wide a figure is drawn.

    Attributes:
        name: `wide`, as wide as the page, or `narrow`, for a telephone.
        width: Inches.
    """

    name: str
    width: float

    @property
    def is_narrow(self) -> bool:
        """Whether there is no room beside the axes."""
        return self.width < 6


WIDE, NARROW = Paper("wide", 10.5), Paper("narrow", 4.4)


def on_both(draw: Callable[[str, Paper], str], name: str) -> dict[str, str]:
    """A figure on either paper, by the paper's name; `draw` gets a prefix for ids."""
    return {paper.name: draw(f"{name}-{paper.name}", paper) for paper in (WIDE, NARROW)}


_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "grains-eval",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.color": INK,
    "hatch.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _svg(figure: Any, name: str, label: str) -> str:
    """The drawing as an element of a page: unique ids, no metadata, text in the page's colour."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href|href)="#', rf'\1="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    # The size comes from the page; the accessible name says what the figure shows.
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*pt"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*pt"', r"\1", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{_attribute(label)}"', 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def forest(
    rows: Sequence[Comparison], controls: frozenset[str], bands: Sequence[Band], alpha: float
) -> Callable[[str, Paper], str]:
    """Differences with intervals, one line per method, of one task and metric.

    Filled markers are differences shown after adjustment, open ones are not; squares are controls. Several draws of
    a control are one hatched bar over their range, with a line at their mean.
    """
    key = (rows[0].task, rows[0].metric)
    bands = [band for band in bands if key in band.low]
    return lambda name, paper: _forest(rows, controls, bands, alpha, paper, name)


def _forest(
    rows: Sequence[Comparison],
    controls: frozenset[str],
    bands: Sequence[Band],
    alpha: float,
    paper: Paper,
    name: str,
) -> str:
    import matplotlib as mpl

    key = (rows[0].task, rows[0].metric)
    drawn = {member for band in bands for member in band.members}
    metric, higher = rows[0].metric, rows[0].higher_is_better
    runs = len(rows)
    scale = rows[0].scale
    factor = 100.0 if scale == 1 else 1.0
    rows = [row for row in rows if row.method not in drawn]
    labels = [row.method for row in rows] + [band.heading for band in bands]
    with mpl.rc_context(_STYLE):
        step = 0.5 if paper.is_narrow else 0.34
        figure, axes = _figure(paper.width, 0.9 + step * len(labels))
        for place, row in enumerate(rows):
            control = row.method in controls
            colour = COLOURS[4] if control else HELPED
            low, high = (bound * factor for bound in row.interval)
            shown = answer(row, alpha) not in ("not shown", "no verdict")
            if np.isfinite(low) and np.isfinite(high):
                axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(
                row.difference * factor,
                place,
                marker="s" if control else "o",
                markersize=7,
                color=colour,
                markerfacecolor=colour if shown else "none",
                markeredgewidth=1.6,
            )
        for place, band in enumerate(bands, start=len(rows)):
            low, mean, high = (factor * side[key] for side in (band.low, band.mean, band.high))
            axes.barh(
                place,
                high - low,
                left=low,
                height=0.17 / step,
                facecolor="none",
                edgecolor=INK,
                hatch="////",
                linewidth=0.8,
            )
            axes.plot([mean, mean], [place - 0.12 / step, place + 0.12 / step], color=COLOURS[4], linewidth=3)
        axes.axvline(0, color=INK, linewidth=1, linestyle=":")
        if paper.is_narrow:  # names above their lines, which get the whole width
            axes.set_yticks([])
            for place, label in enumerate(labels):
                axes.text(0, place - 0.24, label, transform=axes.get_yaxis_transform(), va="bottom", fontsize=9)
        else:
            axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.9 if paper.is_narrow else -0.5)
        better = {True: "higher is better", False: "lower is better", None: "no direction declared"}[higher]
        axes.set_xlabel(f"change of {metric}{' in points' if scale else ''} ({better})")
        label = f"Change of {key[0]} {metric} with intervals for {runs} runs; as in the table."
        return _svg(figure, name, label)


def sorted_changes(changes: Changes, name: str, paper: Paper = WIDE) -> str:
    """Every item's push, sorted: helped items left, harmed ones right and hatched."""
    import matplotlib as mpl

    values = np.asarray(changes.pushes, dtype=float)
    places = (np.arange(values.size) + 0.5) / values.size * 100
    if values.size > POINTS_DRAWN:
        index = np.linspace(0, values.size - 1, POINTS_DRAWN).round().astype(int)
        values, places = values[index], places[index]
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(paper.width, 2.6)
        axes.fill_between(
            places,
            np.clip(values, 0, None),
            0,
            step="mid",
            color=HELPED,
            alpha=0.75,
            linewidth=0,
            label="helped",
        )
        axes.fill_between(
            places,
            np.clip(values, None, 0),
            0,
            step="mid",
            facecolor=HARMED,
            edgecolor=INK,
            hatch="////",
            alpha=0.75,
            linewidth=0,
            label="harmed",
        )
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_xlim(0, 100)
        axes.set_xlabel("items, sorted (%)")
        axes.set_ylabel("change of the margin (nats)" if changes.unit == "nats" else f"gain in {changes.unit}")
        axes.legend(loc="upper right")
        wrong = f"{changes.anti_steered * 100:.0f} per cent of items were pushed the wrong way"
        label = f"Per-item effect of {changes.method} on {changes.task}, sorted; {wrong}."
        return _svg(figure, name, label)


def _are_shares(drawn: Curve) -> bool:
    """Whether the lines show a metric that ends at 1."""
    values = [value for series in drawn.series for value in series.y]
    return drawn.y_label.startswith(("accuracy", "share")) and all(value <= 1 for value in values)


def _beside(x: Array, index: int, count: int, others: Sequence[Sequence[float]]) -> Array:
    """Places of one line's points, a little apart from those of the others, so that error bars do not overlap."""
    places = np.unique(np.concatenate([np.asarray(other, dtype=float) for other in others]))
    if count < 2 or places.size < 2:
        return x
    return x + (index - (count - 1) / 2) * min(0.012 * np.ptp(places), 0.5 * np.diff(places).min() / count)


def curve(drawn: Curve, name: str, paper: Paper = WIDE) -> str:
    """Lines with error bars, each with its own marker and dash; the chosen setting is ringed, on a vertical line."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        lines = len(drawn.series)
        figure, axes = _figure(paper.width, 3.6 + (0.12 * lines if paper.is_narrow else 0))
        for index, series in enumerate(drawn.series):
            x = _beside(np.asarray(series.x, dtype=float), index, lines, [other.x for other in drawn.series])
            y = np.asarray(series.y, dtype=float)
            reach = None
            if len(series.low) and len(series.high):
                reach = np.abs(np.stack([y - np.asarray(series.low), np.asarray(series.high) - y]).astype(float))
            axes.errorbar(
                x,
                y,
                yerr=reach,
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                linestyle=DASHES[index % len(DASHES)],
                elinewidth=1.1,
                capsize=2.5,
                label=series.name,
            )
            if series.name == drawn.chosen_line and drawn.chosen in list(series.x):
                place = list(series.x).index(drawn.chosen)
                ring = {"marker": "o", "markersize": 15, "markerfacecolor": "none", "markeredgecolor": INK}
                axes.plot(x[place], y[place], linestyle="none", markeredgewidth=1.8, zorder=5, **ring)
        if _are_shares(drawn) and axes.get_ylim()[1] > 1:
            axes.set_ylim(top=1.0)
            for line in axes.lines:
                line.set_clip_on(False)  # markers at the end of the axis stay whole
        if drawn.chosen is not None:
            where = f"chosen: {drawn.chosen_line + ', ' if drawn.chosen_line else ''}{drawn.chosen:g}"
            axes.axvline(drawn.chosen, color=INK, linewidth=1.2, linestyle=":", label=where)
        if all(float(x).is_integer() for series in drawn.series for x in series.x):
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(drawn.x_label)
        axes.set_ylabel(drawn.y_label)
        if paper.is_narrow:
            figure.legend(loc="outside lower center", ncols=1 if lines < 3 else 2, fontsize=9)
        else:
            figure.legend(loc="outside right upper")
        names = ", ".join(series.name for series in drawn.series)
        return _svg(figure, name, f"{drawn.title}: {drawn.y_label} against {drawn.x_label} for {names}.")
