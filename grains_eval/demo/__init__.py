"""Small worlds whose models really learned something: facts, training scripts and bundled weights."""

from __future__ import annotations

from pathlib import Path

from grains_eval.errors import pick

WEIGHTS = Path(__file__).parent / "weights"


def model_path(name: str) -> Path:
    """Folder of a bundled model, in the Hugging Face layout.

    Raises:
        GrainsError: no bundled model has that name; the message lists those there are.
    """
    bundled = {config.parent.name: config.parent for config in sorted(WEIGHTS.glob("*/config.json"))}
    return pick(bundled, name, "bundled demo model")


__all__ = ["WEIGHTS", "model_path"]
