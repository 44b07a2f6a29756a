"""Numbers as text."""

from __future__ import annotations

import math

from grains_eval.report.formatting import change, interval, level, number, p_phrase, p_value, rounded


def test_numbers_as_text() -> None:
    assert number(-0.04, 1) == "0.0"
    assert number(-1.25, 1) == "−1.2"
    assert number(math.nan, 1) == "–"
    assert (level(0.341, 1), level(30.27, 100), level(5.4321, 0)) == ("34.1", "30.3", "5.432")
    assert change(0.0, 1) == "+0.0"
    assert interval((-0.01, 0.02), 1) == "−1.0 to +2.0"
    assert (p_value(0.0004), p_value(0.0456), p_value(1.0), p_value(math.nan)) == ("<.001", ".046", "1", "–")
    assert (p_value(0.9994), p_value(0.99951)) == (".999", "1")
    assert (p_phrase(0.0004), p_phrase(0.2)) == ("p < .001", "p = .200")
    assert (rounded(7), rounded(123), rounded(6456), rounded(100_001)) == ("7", "130", "6,500", "110,000")


def test_more_items_than_anybody_has_are_not_counted() -> None:
    assert rounded(1_000_000) == "1,000,000"
    assert rounded(1_000_001) == "more than a million"
