"""What every page must be: well-formed HTML that needs nothing else and that anybody can read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "br", "hr", "img", "input", "link", "source", "wbr", "col", "base", "embed"}
_CLOSED_BY_SLASH = {"circle", "line", "path", "rect", "polyline"}
# Elements that load something, run something or send something.
_FORBIDDEN = {
    *("script", "iframe", "frame", "object", "embed", "link", "image", "audio", "video"),
    *("form", "input", "base", "foreignobject", "use", "animate", "set", "portal", "applet"),
}
_LANDMARKS = ("header", "main", "footer")


@dataclass
class Element:
    name: str
    attributes: dict[str, str]
    parent: Element | None
    content: list[str | Element] = field(default_factory=list)

    @property
    def children(self) -> list[Element]:
        return [item for item in self.content if isinstance(item, Element)]

    @property
    def ancestors(self) -> list[Element]:
        return [] if self.parent is None else [self.parent, *self.parent.ancestors]

    @property
    def words(self) -> str:
        """All text inside, with single spaces between words."""
        inside = (item if isinstance(item, str) else item.words for item in self.content)
        return " ".join(" ".join(inside).split())

    @property
    def hidden(self) -> bool:
        return any(e.attributes.get("aria-hidden") == "true" for e in [self, *self.ancestors])


class Page(HTMLParser):
    """A parsed page. Raises AssertionError where tags do not balance or ids repeat."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.root = Element("", {}, None)
        self.elements: list[Element] = []
        self._open = [self.root]
        self.feed(html)
        self.close()
        assert self._open == [self.root], f"not closed: {[e.name for e in self._open[1:]]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute: {names}"
        attributes = {name: value or "" for name, value in attrs}
        element = Element(tag, attributes, self._open[-1])
        self._open[-1].content.append(element)
        self.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _CLOSED_BY_SLASH, f"<{tag}/> is not closed in HTML"
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].name == tag, f"</{tag}> where <{self._open[-1].name}> is open"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].content.append(data)

    def all(self, *names: str) -> list[Element]:
        return [element for element in self.elements if element.name in names]

    def with_id(self, identity: str) -> Element:
        (found,) = (e for e in self.elements if e.attributes.get("id") == identity)
        return found

    @property
    def text(self) -> str:
        """What a person reads: without the style sheet."""
        body = next(e for e in self.elements if e.name == "body")
        return body.words


def check(html: str) -> Page:
    """Parse a page and check everything that holds for all of them."""
    page = Page(html)
    assert html.lower().startswith("<!doctype html>")
    _stands_alone(page)
    _has_no_dangling_names(page)
    _is_in_order(page)
    _tables_say_what_they_are(page)
    _charts_are_text_too(page)
    return page


def _stands_alone(page: Page) -> None:
    names = {element.name for element in page.elements}
    assert not names & _FORBIDDEN, names & _FORBIDDEN
    policies = [
        e.attributes["content"]
        for e in page.all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    ]
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"<{element.name} {name}>"
            if (element.name, name) == ("img", "src"):
                assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/]+=*", value), value
                continue
            assert name not in {"src", "srcset", "data", "action", "xlink:href", "ping"}, name
            if name == "href":
                assert element.name == "a", element.name
                assert re.fullmatch(r"#[a-z0-9-]+|https://\S+|[A-Za-z0-9][\w./-]*", value), value
            if name == "style":
                assert re.fullmatch(r"((left|width):[\d.]+%;?)+", value), value
    for sheet in page.all("style"):
        assert not re.search(r"url\(|@import|expression|://", sheet.words)


def _has_no_dangling_names(page: Page) -> None:
    identities = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(identities) == len(set(identities)), "an id is used twice"
    for element in page.elements:
        used = element.attributes.get("aria-labelledby", "").split()
        if element.attributes.get("href", "").startswith("#"):
            used.append(element.attributes["href"][1:])
        assert set(used) <= set(identities), set(used) - set(identities)


def _is_in_order(page: Page) -> None:
    (html,) = page.all("html")
    assert html.attributes["lang"] == "en"
    assert len(page.all("title")[0].words.strip()) > 3
    for landmark in _LANDMARKS:
        assert len(page.all(landmark)) == 1, landmark
    levels = [int(e.name[1]) for e in page.elements if re.fullmatch("h[1-6]", e.name)]
    assert levels[0] == 1 and levels.count(1) == 1
    for before, after in zip(levels, levels[1:], strict=False):
        assert after <= before + 1, f"a heading of level {after} below one of {before}"
    for link in page.all("a"):
        assert link.words.strip(), "a link without words"
    for section in page.all("section"):
        assert "aria-labelledby" in section.attributes
    for region in page.elements:
        if region.attributes.get("role") == "region":
            assert region.attributes.get("tabindex") == "0" and region.attributes["aria-label"]


def _tables_say_what_they_are(page: Page) -> None:
    for table in page.all("table"):
        assert [e.name for e in table.children[:2]] == ["caption", "thead"]
        assert table.children[0].words.strip()
        (row,) = table.children[1].children
        for cell in row.children:
            hidden = cell.attributes.get("aria-hidden") == "true"
            assert hidden or (cell.attributes.get("scope") == "col" and cell.words.strip())
        for row in table.children[2].children:
            assert len(row.children) == len(table.children[1].children[0].children)
            for cell in row.children:
                assert cell.name == "td" or cell.attributes.get("scope") == "row"


def _charts_are_text_too(page: Page) -> None:
    for chart in page.all("svg"):
        inside = any(e.name == "svg" for e in chart.ancestors)
        if inside or chart.hidden:
            continue
        assert chart.attributes.get("role") == "img"
        named = chart.attributes["aria-labelledby"].split()
        assert [page.with_id(name).name for name in named] == ["title", "desc"]
        for name in named:
            assert len(page.with_id(name).words.strip()) > 10
