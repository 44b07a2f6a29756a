"""Task pages stand beside their YAML; the site shows them under `task-pages/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

TASKS = Path(__file__).resolve().parent.parent / "tasks"
LINK = re.compile(r"\]\(\.\./tasks/([\w/]+)/README\.md")


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every README under `tasks`."""
    for readme in sorted(TASKS.rglob("README.md")):
        name = f"task-pages/{readme.relative_to(TASKS).as_posix()}"
        files.append(File.generated(config, name, content=readme.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links from a page in `docs` to a task's README to its page on the site, and those back into `docs`."""
    depth = page.file.src_uri.count("/")
    if page.file.src_uri.startswith("task-pages/"):
        return re.sub(r"\]\((?:\.\./)+docs/", f"]({'../' * depth}", markdown)
    return LINK.sub(r"](task-pages/\1/README.md", markdown)
