"""`grains-eval show`: a vector's card and heat maps, a run's results or a report, in the terminal and as HTML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from grains_eval.comparison.logs import read_run
from grains_eval.errors import GrainsError
from grains_eval.files import write_file
from grains_eval.report.data import TokenMap
from grains_eval.report.html import render_heat_maps
from grains_eval.report.run_cards import setting_text
from grains_eval.report.token_maps import VISIBLE, read_token_maps, readable, shares

CARD = "README.md"
CONFIG = "steering_config.json"
REPORT = "report.md"


def show_folder(source: str | Path, console: Any, *, examples: int = 3, html: Path | None = None) -> None:
    """Print an artifact's card with token heat maps, a run's results, or a report.

    Args:
        source: An artifact folder, a folder of lm-eval results, or one with a report.
        console: A rich console.
        examples: Heat maps to draw.
        html: Also write the heat maps to this file, over the images where there are any.

    Raises:
        GrainsError: none of them, or the file exists.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise GrainsError(f"'{source}' is not a folder; give an artifact folder, a run folder of lm-eval or a report's")
    if not (folder / CONFIG).is_file():
        if html is not None:
            raise GrainsError(f"'{source}' is no artifact and has no heat maps; give --html with an artifact folder")
        if (folder / REPORT).is_file():
            console.print(Markdown((folder / REPORT).read_text(encoding="utf-8")))
        else:
            _show_run(folder, console)
        return
    if examples < 0:
        raise GrainsError(f"--examples {examples} is not a number of heat maps; give 0 or more")
    _check_config(folder / CONFIG)
    if (folder / CARD).is_file():
        text = (folder / CARD).read_text(encoding="utf-8")
        console.print(Markdown(text.split("---\n", 2)[-1] if text.startswith("---") else text))
    maps = read_token_maps(folder, examples)
    for drawn in maps:
        console.print(_text(drawn))
    if html is not None:
        if html.exists():
            raise GrainsError(f"'{html}' exists; choose another --html file")
        if not maps:
            raise GrainsError(f"'{source}' holds no attributions to draw")
        write_file(html, render_heat_maps(folder.name, maps))
        console.print(f"heat maps: {html}")


def _built_it(config: dict[str, Any]) -> str:
    """How many evaluated documents built what steered; empty where the run does not say."""
    used = config.get("evaluated_docs_used_to_build")
    return "" if used is None else f"; {used or 'none'} of the evaluated documents built it"


def _check_config(file: Path) -> None:
    """Refuse, without torch, what the loader would refuse.

    Raises:
        GrainsError: the artifact's configuration is damaged.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict) or "format_version" not in config:
        raise GrainsError(f"'{file}' is damaged: it is not an artifact's configuration; build the artifact again")


def _text(drawn: TokenMap) -> Text:
    """One prompt in the terminal: green underlined favours y+, red favours y-, reversed was masked."""
    line = Text(f"\n{drawn.title}  {drawn.note}\n", style="bold")
    visual = sum(drawn.is_image) if drawn.is_image else 0
    for index, (token, share) in enumerate(zip(drawn.tokens, shares(drawn), strict=True)):
        if drawn.is_image and drawn.is_image[index]:
            continue
        favours = drawn.scores[index] > 0
        style = "dim" if share < VISIBLE else "green underline" if favours else "red"
        mark = "" if share < VISIBLE else "⁺" if favours else "⁻"
        chosen = " reverse" if index in drawn.selected else ""
        line.append(f"{readable(token).strip() or '·'}{mark}", style=f"{style}{chosen}")
        line.append(" ")
    if visual:
        total = sum(score for score, flag in zip(drawn.scores, drawn.is_image, strict=True) if flag)
        draws = "grains-eval show --html FILE draws them over the image"
        line.append(f"\n[{visual} visual tokens, together {total:+.3g} nats; {draws}]", "dim")
    return line


def _show_run(folder: Path, console: Any) -> None:
    run = read_run(folder)
    config: dict[str, Any] = run.results.get("config", {})
    for item in config.get("steering") or []:
        is_vector = "form" not in item and item.get("layers") is not None
        setting = f"layers {item['layers']}, strength {item.get('strength')}" if is_vector else setting_text(item)
        console.print(
            f"steered by {item.get('vectors')} ({item.get('method')}), {setting or 'as it is'}{_built_it(config)}"
        )
    table = Table("task", "metric", "value", "items")
    counts: dict[str, Any] = run.results.get("n-samples", {})
    for task, values in run.results["results"].items():
        for key, value in values.items():
            if isinstance(value, float | int) and "stderr" not in key and key not in {"sample_len"}:
                table.add_row(task, key, f"{value:.4f}", str(counts.get(task, {}).get("effective", "")))
    console.print(table)
