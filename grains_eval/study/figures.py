"""What a study hands to its report: development curves and heat maps, read from artifact folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grains_eval.artifacts import open_artifact
from grains_eval.report import Curve, Series, TokenMap
from grains_eval.report.attributions import read_token_maps


def development_curves(folders: Sequence[Path]) -> list[Curve]:
    """Target and preserved accuracy against strength, one line per layer, for artifacts whose setting was chosen."""
    curves: list[Curve] = []
    for folder in folders:
        points: list[dict[str, Any]] = list(open_artifact(folder).provenance.get("development_curve") or [])
        curves.extend(strength_curves(folder.name, points))
    return curves


def strength_curves(name: str, points: Sequence[dict[str, Any]]) -> list[Curve]:
    """Curves of one method; `points` are those of `tune.curve` as mappings, the unsteered model first."""
    if len(points) < 3:
        return []
    unsteered, settings = points[0], points[1:]
    layers: dict[str, list[dict[str, Any]]] = {}
    for point in settings:
        blocks = "all blocks" if point["layers"] is None else f"block {', '.join(map(str, point['layers']))}"
        layers.setdefault(blocks, []).append(point)

    def line(blocks: str, key: str, bounds: bool) -> Series:
        row = sorted([{**unsteered, "strength": 0.0}, *layers[blocks]], key=lambda point: point["strength"])
        return Series(
            blocks,
            [point["strength"] for point in row],
            [point[key] for point in row],
            [point["lower"] for point in row] if bounds else (),
            [point["upper"] for point in row] if bounds else (),
        )

    note = f"{unsteered['n']} development examples, none of them reported."
    drawn = [
        Curve(
            f"{name}: preference accuracy on development examples",
            f"strength ({settings[0].get('unit', 'relative')})",
            "share preferring y+",
            tuple(line(blocks, "accuracy", len(layers) == 1) for blocks in layers),
            note=note,
        )
    ]
    if unsteered.get("preserved") == unsteered.get("preserved") and unsteered.get("preserved") is not None:
        drawn.append(
            Curve(
                f"{name}: accuracy on preserved development items",
                f"strength ({settings[0].get('unit', 'relative')})",
                "accuracy",
                tuple(line(blocks, "preserved", False) for blocks in layers),
                note="Items of the preserved tasks that are left out of the report.",
            )
        )
    return drawn


def token_maps(folders: Sequence[Path], most: int = 3) -> list[TokenMap]:
    """Heat maps of the first artifact that has attributions."""
    for folder in folders:
        found = read_token_maps(folder, most)
        if found:
            return found
    return []
