#!/usr/bin/env python3
"""Checks that the links of the built book lead to its own pages and headings.

Usage: book_links.py FOLDER      such as: book_links.py target/book
"""

import re
import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

# Pages that mdBook makes of other pages.
COPIES = {"print.html", "toc.html", "404.html"}


class Page(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def fault(path: Path, link: str, pages: dict[Path, Page]) -> str | None:
    """Returns what is wrong with a link of a page; links to other servers are not followed."""
    if re.match(r"[a-z]+:", link):
        return None
    name, _, anchor = link.partition("#")
    target = (path.parent / urllib.parse.unquote(name)).resolve() if name else path
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        return "no such file"
    return "no such heading" if anchor and target in pages and anchor not in pages[target].anchors else None


def main() -> None:
    book = Path(sys.argv[1]).resolve()
    pages = {path: Page(path) for path in sorted(book.rglob("*.html"))}
    links = [(path, link) for path, page in pages.items() if path.name not in COPIES for link in page.links]
    faults = [f"{path.relative_to(book)}: {link}: {wrong}" for path, link in links if (wrong := fault(path, link, pages))]
    print("\n".join(faults) or f"{len(links)} links on {len(pages)} pages of the book lead somewhere")
    sys.exit(bool(faults) or not links)


if __name__ == "__main__":
    main()
