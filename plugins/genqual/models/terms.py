"""Terms of a model's licence as text, out of the page that its package holds. Pure: the standard library."""

from __future__ import annotations

import re
import textwrap
from html.parser import HTMLParser
from typing import Final

_BLOCKS: Final = frozenset({"p", "h1", "h2", "h3", "h4", "li", "div", "br", "tr", "ul", "ol"})
_UNSEEN: Final = frozenset({"script", "style", "button", "devsite-toc", "template"})


class _Article(HTMLParser):
    """Collects the text of the page's article; of the whole page where it has none."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._depth, self._unseen = int(whole), 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._depth += tag == "article"
        self._unseen += tag in _UNSEEN
        if tag in _BLOCKS:
            self.parts.append("\n\n- " if tag == "li" else "\n\n")

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "article"
        self._unseen -= tag in _UNSEEN
        if tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._depth > 0 and self._unseen <= 0:
            self.parts.append(re.sub(r"\s+", " ", data))


def plain_text(page: str, width: int = 100) -> str:
    """The words of an HTML page's article as paragraphs of at most `width` columns."""
    parser = _Article(whole="<article" not in page)
    parser.feed(page)
    parser.close()
    paragraphs = (" ".join(one.split()) for one in "".join(parser.parts).split("\n\n"))
    told = [one for one in paragraphs if one and one != "-"]
    return "\n\n".join(textwrap.fill(one, width, break_long_words=False, break_on_hyphens=False) for one in told)
