"""A parsed HTML page."""

from __future__ import annotations

import html.parser

EMPTY = {"meta", "br", "hr"}


class ParsedPage(html.parser.HTMLParser):
    """A parsed page: its elements balance, ids are unique, and links within it have targets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        assert all(link[1:] in self.ids for link in self.links)
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an element."""
        self.tags.append(tag)
        named = dict(attrs)
        if tag not in EMPTY:
            self.open.append(tag)
        if named.get("id"):
            self.ids.append(str(named["id"]))
        if tag == "a":
            self.links.append(str(named["href"]))
        assert not any(name.startswith("on") or name in ("src", "style", "srcset") for name in named)

    def handle_endtag(self, tag: str) -> None:
        """Record the end of an element."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Record text."""
        if self.open and self.open[-1] != "style":
            self.said.append(data)
