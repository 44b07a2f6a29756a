"""Numbers as text, the same in the terminal, in Markdown and in HTML."""

from __future__ import annotations

import math

from grains_eval.types import Comparison

MANY = 1_000_000  # larger numbers of items are not written out
MISSING = "–"
MINUS = "−"


def number(value: float, digits: int) -> str:
    """A number with a true minus sign; an en dash where there is none."""
    if not math.isfinite(value):
        return MISSING
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", MINUS)


def level(value: float, scale: float) -> str:
    """A metric's value: shares and scores out of 100 in points, others as they are."""
    return number(value * 100, 1) if scale == 1 else number(value, 1 if scale == 100 else 3)


def change(value: float, scale: float) -> str:
    """A difference, always with its sign."""
    text = level(value, scale)
    return text if text == MISSING or text.startswith(MINUS) else f"+{text}"


def unit(scale: float) -> str:
    """The unit that belongs to `level` and `change`."""
    return "points" if scale in (1, 100) else "units"


def interval(bounds: tuple[float, float], scale: float) -> str:
    """Both ends of an interval; an en dash where there is none."""
    if all(map(math.isnan, bounds)):
        return MISSING
    return f"{change(bounds[0], scale)} to {change(bounds[1], scale)}"


def p_value(p: float) -> str:
    """A p-value as tables print it."""
    if not math.isfinite(p):
        return MISSING
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0") if p < 0.9995 else "1"


def p_phrase(p: float) -> str:
    """A p-value within a sentence."""
    text = p_value(p)
    return f"p {text[0]} {text[1:]}" if text.startswith("<") else f"p = {text}"


def share(value: float) -> str:
    """A share in per cent."""
    return MISSING if not math.isfinite(value) else f"{value * 100:.0f} %"


def rounded(count: int) -> str:
    """A needed number of items, rounded up to two digits: it is no more certain than that."""
    if count > MANY:
        return "more than a million"
    digits = max(0, len(str(count)) - 2)
    return f"{-(-count // 10**digits) * 10**digits:,}"


def confidence(alpha: float) -> str:
    """The confidence level in per cent."""
    return f"{(1 - alpha) * 100:.12g} %"


def counted(n: int, clusters: int | None) -> str:
    """How many items were compared, and in how many clusters."""
    return f"{n:,} items" if clusters is None else f"{n:,} items in {clusters:,} clusters"


def too_few(n: int, clusters: int | None, needed: int) -> str:
    """Why there is no verdict, and how many units would allow one."""
    units = f"{n:,} items" if clusters is None else f"{clusters:,} clusters"
    return f"{units} are too few for any test, which takes about {needed:,}"


def no_verdict(comparison: Comparison) -> str:
    """Why a row has no verdict, and with what it would have one; empty where it has one."""
    if comparison.units_needed is not None:
        return too_few(comparison.n, comparison.clusters, comparison.units_needed)
    if comparison.most_rows is not None:
        return (
            f"resamples give no p below {comparison.p:.2g}, which shows nothing among more than "
            f"{comparison.most_rows:,} rows; restrict the table with tasks or metrics"
        )
    return ""


def error_rates(guaranteed: bool, assumption: str) -> str:
    """Whether error rates hold at every number of items, and under which assumption; empty where nothing is known."""
    if not assumption:
        return ""
    return f"error rates {'guaranteed' if guaranteed else 'approximate'}, provided that {assumption}"


def procedure(row: Comparison) -> str:
    """What gave a row's p and interval: the test, its units, what it is about and what it assumes."""
    units = f"{row.n:,} items" if row.clusters is None else f"{row.clusters:,} clusters of {row.n:,} items"
    about = row.estimand or ("items like these" if row.clusters is None else "clusters like these")
    said = f"{row.test} over {units}, about {about}"
    if reason := no_verdict(row):
        return f"{said}: no verdict is possible, {reason}"
    return "; ".join(filter(None, (said, error_rates(row.guaranteed, row.assumption))))
