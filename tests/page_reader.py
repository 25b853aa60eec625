"""What a page of HTML says and what it would fetch, for tests of reports."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path


class Reader(HTMLParser):
    """Collects words, and everything that could be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        fetching = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
        self.sources += [value or "" for name, value in attrs if name in fetching]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader
