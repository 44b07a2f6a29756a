"""What checks of a page read from it."""

from __future__ import annotations

from html.parser import HTMLParser


class Outline(HTMLParser):
    """What the checks below ask of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.headers_without_scope = 0
        self.unnamed_images = 0
        self.headings: list[str] = []
        self.words: list[str] = []

    @classmethod
    def text(cls, page: str) -> str:
        outline = cls()
        outline.feed(page)
        return " ".join("".join(outline.words).split())

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        for name in ("href", "src", "xlink:href", "data"):
            if name in found:
                self.links.append(str(found[name]))
        self.headers_without_scope += tag == "th" and "scope" not in found
        if tag == "svg":
            self.unnamed_images += not found.get("aria-label")
        if tag in ("h1", "h2", "h3"):
            self.headings.append(tag)
        if tag not in ("meta", "link", "br", "path", "use", "rect", "image"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag in self.open:
            while self.open.pop() != tag:
                pass
