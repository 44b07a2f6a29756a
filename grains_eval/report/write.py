"""Write a report: HTML, Markdown, JSON and CSV beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from grains_eval.errors import GrainsError
from grains_eval.report.data import ReportData
from grains_eval.report.export import to_csv, to_json
from grains_eval.report.html import render_html
from grains_eval.report.tables import to_markdown

FILES: Mapping[str, Callable[[ReportData], str]] = {
    "report.html": render_html,
    "report.md": to_markdown,
    "report.json": to_json,
    "comparisons.csv": to_csv,
}


def refuse_existing(folder: Path, instead: str = "choose another --output_path or pass --overwrite") -> None:
    """Raise when a report is in the way, and say what to do instead.

    Raises:
        GrainsError: the folder holds one of the files, or is a file itself.
    """
    if folder.is_file():
        raise GrainsError(f"'{folder}' is a file; give a folder as --output_path")
    for name in FILES:
        if (folder / name).exists():
            raise GrainsError(f"'{folder / name}' exists; {instead}")


def write(report: ReportData, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write all four files; they are rendered first, so that a failure leaves none half written.

    Args:
        report: The report.
        folder: Where to; made if it is not there.
        overwrite: Replace a report.

    Returns:
        The HTML file.

    Raises:
        GrainsError: a report is in the way.
    """
    place = Path(folder)
    if not overwrite:
        refuse_existing(place)
    write_together(place, {name: render(report) for name, render in FILES.items()})
    return place / "report.html"


def write_together(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files that belong together: all of them, or on a full disk none.

    Args:
        folder: Where to; made if it is not there.
        texts: Contents by file name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / f".{name}.part" for name in texts}
    try:
        for name, text in texts.items():
            parts[name].write_text(text, encoding="utf-8")
        for name, part in parts.items():
            part.replace(folder / name)
    except BaseException:
        for part in parts.values():
            part.unlink(missing_ok=True)
        raise
