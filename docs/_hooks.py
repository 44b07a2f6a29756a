"""Pages that are made when the site is: tasks' READMEs, under `task-pages/`, and the commands' flags."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from grains_eval import cli

TASKS = Path(__file__).resolve().parent.parent / "tasks"
LINK = re.compile(r"\]\(\.\./tasks/([\w/]+)/README\.md")
WIDTH = 70  # characters of a line of code that the page shows
SHARED = ("--verbosity", "--plugin", "--traceback")


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every README under `tasks`, and the reference of commands."""
    for readme in sorted(TASKS.rglob("README.md")):
        name = f"task-pages/{readme.relative_to(TASKS).as_posix()}"
        files.append(File.generated(config, name, content=readme.read_text(encoding="utf-8")))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links from a page in `docs` to a task's README to its page on the site, and those back into `docs`."""
    depth = page.file.src_uri.count("/")
    if page.file.src_uri.startswith("task-pages/"):
        return re.sub(r"\]\((?:\.\./)+docs/", f"]({'../' * depth}", markdown)
    return LINK.sub(r"](task-pages/\1/README.md", markdown)


def commands_page() -> str:
    """Every command and flag, as `--help` has them."""
    parsers = next(action.choices for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction))
    parts = [
        "# Commands",
        "What `grains-eval COMMAND --help` prints. The exit code is 0, or 1 for a failure of the program, 2 for a "
        "mistake that you can fix, 130 for an interrupt.",
    ]
    for group, commands in cli.GROUPS.items():
        parts.append(f"## {group.capitalize()}")
        for command in commands:
            actions = parsers[command.name]._actions
            described = command.description or f"In short: {command.summary}."
            example = command.example.replace(" --", " \\\n    --") if len(command.example) > WIDTH else command.example
            parts += [f"### grains-eval {command.name}", described, f"```\n{example}\n```"]
            own = [action for action in actions if not {"-h", *SHARED} & set(action.option_strings)]
            if command.add_arguments is None:
                parts.append("Takes every flag of `lm-eval run`, and `--plugin`.")
            elif own:
                parts.append(_table(own))
    any_of_them = next(iter(parsers.values()))._actions
    parts += ["## Every command", _table(one for one in any_of_them if {*SHARED} & set(one.option_strings))]
    return "\n\n".join(parts) + "\n"


def _table(actions: Iterable[argparse.Action]) -> str:
    return "\n".join(["| flag | meaning |", "|---|---|", *_rows(actions)])


def _rows(actions: Iterable[argparse.Action]) -> Iterator[str]:
    for action in actions:
        values = action.metavar or ("/".join(map(str, action.choices)) if action.choices else action.dest.upper())
        takes = "" if action.nargs == 0 or not action.option_strings else f" {values}"
        meaning = (action.help or "").replace("|", r"\|").replace("_", r"\_")
        needed = " (required)" if action.required and action.option_strings else ""
        yield f"| `{', '.join(action.option_strings) or values}{takes}` | {meaning}{needed} |"
