"""Build hook: a wheel carries `tasks/` inside the package, an editable install does not copy it."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TasksInsideThePackage(BuildHookInterface):
    """Adds the task folder to standard wheels only, so that an editable install never sees a stale copy."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a build; `version` is `standard` or `editable`."""
        if version == "standard":
            build_data["force_include"][str(Path(self.root, "tasks"))] = "grains_eval/tasks"
