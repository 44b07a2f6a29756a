"""Steering of a server's requests (not there yet)."""

from __future__ import annotations

from typing import Any


def is_wanted() -> bool:
    """Whether vectors are to be served."""
    return False


def install() -> None:
    """Nothing yet."""


def registered() -> dict[str, Any]:
    """Nothing yet."""
    return {}
