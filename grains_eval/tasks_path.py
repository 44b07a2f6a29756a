"""Where the behaviours live: inside the package when installed, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def is_installed() -> bool:
    """Tell whether this is an installed wheel, which carries the tasks as `grains_eval/tasks`."""
    return (PACKAGE / "tasks").is_dir()


def task_directory() -> Path:
    """Give the folder that holds `<behaviour>/*.yaml` and `<behaviour>/recipe.yaml`."""
    return PACKAGE / "tasks" if is_installed() else PACKAGE.parent / "tasks"
