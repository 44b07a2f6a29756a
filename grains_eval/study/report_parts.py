"""What a study hands to its report: development curves and heat maps, read from artifact folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from grains_eval.artifacts.layout import Artifact
from grains_eval.artifacts.load import open_artifact
from grains_eval.report import Curve, Series, StudyTable, TokenMap
from grains_eval.report.formatting import number
from grains_eval.report.token_maps import read_token_maps

# Both ends of a point's interval, None where they are not known.
_Bounds = Callable[[dict[str, Any]], tuple[float, float] | None]


def development_curves(folders: Sequence[Path]) -> list[Curve]:
    """Target and preserved accuracy against strength, one line per layer, for artifacts whose setting was chosen."""
    curves: list[Curve] = []
    for folder in folders:
        artifact = open_artifact(folder)
        points: list[dict[str, Any]] = list(artifact.provenance.get("development_curve") or [])
        curves.extend(strength_curves(folder.name, points, _of_whole_model(artifact)))
    return curves


def _of_whole_model(artifact: Artifact) -> str:
    """What is chosen of an artifact that has no layers."""
    return "alpha" if artifact.contrast is not None else "epoch"


def strength_curves(name: str, points: Sequence[dict[str, Any]], whole: str = "epoch") -> list[Curve]:
    """Curves of one method.

    Args:
        name: The method's name.
        points: Those of `tune.curve` as mappings, the unsteered model first.
        whole: What stands where strengths do in a method without layers.
    """
    if len(points) < 3:
        return []
    unsteered, settings = points[0], points[1:]
    by_layer: dict[str, list[dict[str, Any]]] = {}
    for point in settings:
        named = ", ".join(map(str, point["layers"] or ()))
        where = "all layers" if point["layers"] is None else f"layer {named}" if named else whole
        by_layer.setdefault(where, []).append(point)

    def line(where: str, key: str, bounds: _Bounds) -> Series:
        # the unsteered model is at no finite strength of found tokens
        first = [] if unsteered["strength"] is None else [{**unsteered, "strength": 0.0}]
        row = sorted([*first, *by_layer[where]], key=lambda point: point["strength"])
        found = [ends for point in row if (ends := bounds(point)) is not None]
        known = found if len(found) == len(row) else []
        strengths, values = [point["strength"] for point in row], [point[key] for point in row]
        return Series(where, strengths, values, [low for low, _ in known], [high for _, high in known])

    mark, said = _chosen(points, by_layer)

    def figure(title: str, axis: str, key: str, note: str, bounds: _Bounds) -> Curve:
        lines = tuple(line(where, key, bounds) for where in by_layer)
        return Curve(f"{name}: {title}", across, axis, lines, note=note, **mark)

    unit = "log of a multiplicity" if unsteered["strength"] is None else settings[0].get("unit", "relative")
    across = f"strength ({unit})" if settings[0]["layers"] != [] else whole
    note = f"{unsteered['n']} development examples, none of them reported; 95 % intervals.{said}"
    title = "preference accuracy on development examples"
    drawn = [figure(title, "share preferring y+", "accuracy", note, lambda point: (point["lower"], point["upper"]))]
    if "log_p_chosen" in unsteered:
        title = "log-likelihood of the preferred response on development examples"
        note = "Where it falls, y+ is preferred for being less unlikely than y-, not for being likely."
        drawn.append(figure(title, "mean log p(y+ | x), nats", "log_p_chosen", note, _mean_interval))
    if unsteered.get("preserved") == unsteered.get("preserved") and unsteered.get("preserved") is not None:
        title = "accuracy on preserved development items"
        count = unsteered.get("preserved_n") or "Some"
        note = f"{count} items of the preserved tasks that are left out of the report."
        drawn.append(figure(title, "accuracy", "preserved", note, _preserved_interval))
    return drawn


def _chosen(points: Sequence[dict[str, Any]], by_layer: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], str]:
    """Where a curve shows the chosen setting, and a sentence where it cannot."""
    place = next((index for index, point in enumerate(points) if point.get("is_chosen")), None)
    if place is None:
        return {}, ""
    if place > 0:
        line = next(where for where, found in by_layer.items() if any(point is points[place] for point in found))
        return {"chosen": float(points[place]["strength"]), "chosen_line": line}, ""
    off = {} if points[0]["strength"] is None else {"chosen": 0.0}
    return off, " The unsteered model was chosen."


def accuracy_interval(share: float, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a share of `n` items."""
    low, high = cast("tuple[float, float]", proportion_confint(round(share * n), n, method="wilson"))
    return float(low), float(high)


def _preserved_interval(point: dict[str, Any]) -> tuple[float, float] | None:
    n, share = point.get("preserved_n"), point.get("preserved")
    return accuracy_interval(share, n) if n and share is not None and share == share else None


def _mean_interval(point: dict[str, Any]) -> tuple[float, float] | None:
    """Student's t interval of a mean log-likelihood; artifacts of older builds do not hold its error."""
    error, n = point.get("log_p_chosen_error"), point["n"]
    if error is None or n < 2:
        return None
    half = float(t.isf(0.025, n - 1)) * error
    return point["log_p_chosen"] - half, point["log_p_chosen"] + half


def development_tables(folders: Sequence[Path]) -> list[StudyTable]:
    """What tuning saw at the setting it chose, one row per artifact whose setting was chosen."""
    rows: list[tuple[str, ...]] = []
    for folder in folders:
        artifact = open_artifact(folder)
        points: list[dict[str, Any]] = list(artifact.provenance.get("development_curve") or [])
        whole = _of_whole_model(artifact)
        chosen = next((point for point in points if point.get("is_chosen")), None)
        if chosen is None:
            continue
        layers = "all" if chosen["layers"] is None else "/".join(map(str, chosen["layers"])) or whole
        setting = f"{layers}: {chosen['strength']:.3g}" if chosen["strength"] else "unsteered"
        moves = [_moved(points[0], chosen, name, 2) for name in ("log_p_chosen", "log_p_rejected")]
        shares = [_moved(points[0], chosen, name, 3) for name in ("accuracy", "preserved")]
        rows.append((folder.name, setting, shares[0], *moves, shares[1]))
    header = ("method", "chosen", "preference accuracy", "log p(y+)", "log p(y−)", "preserved accuracy")
    note = (
        "Means on development examples, none of them reported, unsteered → at the chosen setting (layers: strength, "
        "epoch or alpha); log p in nats, given the prompt."
    )
    return [StudyTable("What tuning saw", header, tuple(rows), note)] if rows else []


def _moved(unsteered: dict[str, Any], chosen: dict[str, Any], name: str, digits: int) -> str:
    before, after = unsteered.get(name), chosen.get(name)
    return "–" if before is None or after is None else f"{number(before, digits)} → {number(after, digits)}"


def token_maps(folders: Sequence[Path], most: int = 3) -> list[TokenMap]:
    """Heat maps of the first artifact that has attributions."""
    for folder in folders:
        found = read_token_maps(folder, most)
        if found:
            return found
    return []
