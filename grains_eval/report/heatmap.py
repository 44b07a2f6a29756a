"""Token heat maps: strength by colour, sign also by underline and in words."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from typing import Any

from grains_eval.report.data import TokenMap

# Byte-level tokenizers write a space and a line break as these letters.
_LETTERS = {"Ġ": " ", "▁": " ", "Ċ": "\n", "ĉ": "\t"}
# Tokens that carry at least this share of the largest score are marked by sign.
_VISIBLE = 0.05


def token_map(
    attribution: Any,
    *,
    selected: Sequence[int] = (),
    pictures: Sequence[bytes] = (),
    title: str | None = None,
) -> TokenMap:
    """A heat map of an `Attribution`, or of anything with its attributes.

    Args:
        attribution: Object with `example_id`, `tokens`, `scores`, `is_image`, `value` and so on.
        selected: Positions that were masked.
        pictures: The prompt's pictures as PNG files.
        title: Heading; default: the example's id.
    """
    patches = list(getattr(attribution, "patches", ()) or ())
    error = float(getattr(attribution, "completeness_error", math.nan))
    value = float(getattr(attribution, "value", math.nan))
    start = float(getattr(attribution, "baseline_value", math.nan))
    parts = [f"F(x) = {value:.3f} nats"] if math.isfinite(value) else []
    if math.isfinite(start):
        parts.append(f"at the baseline {start:.3f} nats")
    if math.isfinite(error):
        parts.append(f"completeness error {error * 100:.2f} %")
    return TokenMap(
        title=title or str(attribution.example_id),
        tokens=tuple(attribution.tokens),
        scores=tuple(float(score) for score in attribution.scores),
        is_image=tuple(bool(flag) for flag in attribution.is_image),
        selected=frozenset(int(position) for position in selected),
        boxes=tuple(None if patch is None else (patch.image, tuple(patch.box)) for patch in patches),
        pictures=tuple(pictures),
        note=", ".join(parts),
    )


def heat_map_html(drawn: TokenMap) -> str:
    """One example as HTML: text tokens in a row, visual tokens as squares over their picture."""
    largest = max((abs(score) for score in drawn.scores), default=0.0) or 1.0
    visual = [index for index, flag in enumerate(drawn.is_image) if flag]
    hidden = set(visual)
    text = "".join(_token(drawn, index, largest) for index in range(len(drawn.tokens)) if index not in hidden)
    pictures = "".join(_picture(drawn, image, largest) for image in _images(drawn))
    return (
        f'<figure class="heat"><figcaption>{html.escape(drawn.title)}'
        f"{f'<br><small>{html.escape(drawn.note)}</small>' if drawn.note else ''}</figcaption>"
        f'<p class="tokens">{text}</p>{pictures}{_table(drawn, largest)}</figure>'
    )


def readable(token: str) -> str:
    """A token as a person reads it."""
    for letter, meaning in _LETTERS.items():
        token = token.replace(letter, meaning)
    return token


def _token(drawn: TokenMap, index: int, largest: float) -> str:
    score = drawn.scores[index]
    share = abs(score) / largest
    sign = "" if share < _VISIBLE else "pos" if score > 0 else "neg"
    classes = " ".join(part for part in ("t", sign, "chosen" if index in drawn.selected else "") if part)
    text = html.escape(readable(drawn.tokens[index]))
    shown = text.replace("\n", "↵") if text.strip(" ") else text.replace(" ", "&nbsp;") or "∅"
    mark = "" if not sign else f"<sup>{'+' if score > 0 else '−'}</sup>"
    breaks = "<br>" * text.count("\n")
    opening = f'<span class="{classes}" style="--s:{share:.2f}" title="{score:+.4g} nats">'
    return f"{opening}{shown}{mark}</span>{breaks}"


def _images(drawn: TokenMap) -> list[int]:
    found = {box[0] for box in drawn.boxes if box is not None}
    return sorted(found)


def _picture(drawn: TokenMap, image: int, largest: float) -> str:
    size = 320
    parts: list[str] = []
    if image < len(drawn.pictures):
        data = base64.b64encode(drawn.pictures[image]).decode()
        parts.append(
            f'<image href="data:image/png;base64,{data}" width="{size}" height="{size}" preserveAspectRatio="none"/>'
        )
    for index, box in enumerate(drawn.boxes):
        if box is None or box[0] != image:
            continue
        left, top, right, bottom = (edge * size for edge in box[1])
        score = drawn.scores[index]
        share = abs(score) / largest
        sign = "pos" if score > 0 else "neg"
        chosen = " chosen" if index in drawn.selected else ""
        parts.append(
            f'<rect class="{sign}{chosen}" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{bottom - top:.1f}" style="--s:{share:.2f}"><title>{score:+.4g} nats</title></rect>'
        )
        if share >= _VISIBLE:
            middle = ((left + right) / 2, (top + bottom) / 2)
            parts.append(
                f'<text x="{middle[0]:.1f}" y="{middle[1]:.1f}" text-anchor="middle" '
                f"dominant-baseline='central'>{'+' if score > 0 else '−'}</text>"
            )
    return (
        f'<svg class="patches" viewBox="0 0 {size} {size}" role="img" '
        f'aria-label="Scores of the visual tokens of picture {image + 1}; the largest are in the table.">'
        f"{''.join(parts)}</svg>"
    )


def _table(drawn: TokenMap, largest: float, shown: int = 6) -> str:
    """The strongest tokens in words, for those who do not see the colours."""
    order = sorted(range(len(drawn.scores)), key=lambda index: -abs(drawn.scores[index]))
    rows = "".join(
        f'<tr><th scope="row">{html.escape(_name(drawn, index))}</th>'
        f'<td class="num">{drawn.scores[index]:+.4f}'.replace("-", "−")
        + f"</td><td>{'masked' if index in drawn.selected else ''}</td></tr>"
        for index in order[:shown]
        if abs(drawn.scores[index]) >= _VISIBLE * largest
    )
    return (
        '<details><summary>strongest tokens</summary><table><thead><tr><th scope="col">token</th>'
        '<th scope="col" class="num">score (nats)</th><th scope="col">selection</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></details>"
    )


def _name(drawn: TokenMap, index: int) -> str:
    if index < len(drawn.is_image) and drawn.is_image[index]:
        box = drawn.boxes[index] if index < len(drawn.boxes) else None
        if box is None:
            return f"visual token {index}"
        left, top, right, bottom = box[1]
        return f"picture {box[0] + 1}, {(left + right) * 50:.0f} % across, {(top + bottom) * 50:.0f} % down"
    return f"{index}: {readable(drawn.tokens[index])!r}"
