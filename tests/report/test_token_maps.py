"""Heat maps: what is drawn of each token."""

from __future__ import annotations

from grains_eval.report.html import render_heat_maps
from grains_eval.report.token_maps import drawing, readable, shares
from tests.comparison import world
from tests.report.outline import Outline


def test_tokens_are_readable() -> None:
    assert [readable(token) for token in ("ĠWhat", "▁if", "Ċ", "plain")] == [" What", " if", "\n", "plain"]


def test_text_and_visual_tokens_are_drawn_apart() -> None:
    text, visual = world.maps()
    assert max(shares(text)) == 1.0
    assert len(drawing(text)["tokens"]) == 9 and drawing(text)["images"] == []
    seen = drawing(visual)
    assert [token["text"] for token in seen["tokens"]] == [" safe", "?"]
    (image,) = seen["images"]
    assert [(patch["x"], patch["y"], patch["width"]) for patch in image["patches"]] == [
        (0, 0, 160), (160, 0, 160), (0, 160, 160), (160, 160, 160),
    ]  # fmt: skip
    assert [patch["chosen"] for patch in image["patches"]] == [False, True, False, False]
    strongest = [abs(token["score"]) for token in seen["strongest"]]
    assert strongest == sorted(strongest, reverse=True)


def test_the_page_escapes_tokens_and_says_signs_in_words() -> None:
    page = render_heat_maps("artifact <1>", world.maps())
    assert "&lt;b&gt;" in page and "artifact &lt;1&gt;" in page and "data:image/png;base64," in page
    said = Outline.text(page)
    assert "strongest tokens" in said and "% across" in said and "masked" in said
