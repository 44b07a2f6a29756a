"""The code blocks of a page, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```", flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of one language."""
    return [
        found["code"] for found in BLOCK.finditer(page.read_text(encoding="utf-8")) if found["language"] == language
    ]


def titled(page: Path, language: str = r"\w+") -> dict[str, str]:
    """The blocks that name their file in the fence, by that name."""
    fence = re.compile(rf"^```{language} title=\"([^\"]+)\"\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
    return dict(fence.findall(page.read_text(encoding="utf-8")))


def commands(page: Path) -> list[list[str]]:
    """The words of every shell command."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]
