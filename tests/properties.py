"""Settings of the property tests (hypothesis): the same cases every time, a few hundred, no time limit for one."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_UNCHECKED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


def cases(count: int = 200) -> settings:
    """That many cases, the same in every run."""
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=_UNCHECKED
    )


# text with halves of surrogate pairs, control characters and empty ones; numbers that no float holds
TEXTS = st.text(max_size=8) | st.sampled_from(["", "\ud800", "\0", "a\nb", "../x", "auto", "all", "x" * 3000])
NUMBERS = (
    st.integers(-3, 100)
    | st.floats()
    | st.sampled_from([10**30, -(10**400), 2**63, 1e308, -0.0, 0.5])
)  # fmt: skip
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS


def json_values(
    leaves: st.SearchStrategy[Any] = SCALARS, names: st.SearchStrategy[str] = TEXTS
) -> st.SearchStrategy[Any]:
    """Whatever JSON may hold, and NaN, as Python's reader takes it."""
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
    )
