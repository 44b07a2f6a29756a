"""Versions of the packages that results depend on."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("grains-eval", "torch", "transformers", "lm_eval", "captum", "scikit-learn", "peft")
"""What a built artifact depends on."""


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions by package, without packages that are not installed."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
