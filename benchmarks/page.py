"""Write the measured tables of `benchmarks/results/*.json` into the pages that show them.

    python -m benchmarks.page

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, with the command that made it and its machine.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import common

ROOT = Path(__file__).resolve().parent
PAGES = (
    *(
        ROOT.parent / "docs" / name
        for name in (
            *("method.md", "performance.md", "comparison.md", "found-tokens.md", "models.md"),
            *("statistics.md", "vllm.md", "many-gpus.md"),
        )
    ),
    *(ROOT.parent / "tasks" / "demo" / name / "README.md" for name in ("text_split", "text_shared", "image")),
)
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(found: dict[str, Any]) -> str:
    """The command, its machine, and the rows as a Markdown table."""
    where = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    device = where.get("gpu") or f"{where['cpu']}, {where['threads']} thread(s)"
    return (
        f"```\n{found['command']}\n```\n\n{common.markdown(found['rows'])}\n\n"
        f"*{device}; Python {where['python']}, {versions}.*\n"
    )


def render(text: str) -> str:
    """The page with every table that has been measured."""

    def fill(match: re.Match[str]) -> str:
        file = ROOT / "results" / f"{match[2]}.json"
        if not file.is_file():
            command = f"python -m benchmarks.{match[2]} --output benchmarks/results/{match[2]}.json"
            return f"{match[1]}\nNot measured at full size yet:\n\n```\n{command}\n```\n\n{match[3]}"
        return f"{match[1]}\n{table(json.loads(file.read_text()))}\n{match[3]}"

    return PLACE.sub(fill, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page.read_text()))
