#!/usr/bin/env python3
"""Checks the links of all documents: that files and headings exist, and that the book lists every page.

Links within the repository are checked, also those that are written as addresses of its own files on GitHub. Addresses
of other servers are not: a check must not depend on them.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = re.compile(r"https://github\.com/batchfleet/batchfleet/(?:blob|tree)/main/")
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"^\s*(```|~~~)")


def prose(text: str) -> list[tuple[int, str]]:
    """Returns the numbered lines outside code blocks, without code spans."""
    lines, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            lines.append((number, line))
    return lines


def slug(heading: str) -> str:
    """Returns the anchor that GitHub and mdBook give a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings; a repeated heading gets a number."""
    found: set[str] = set()
    for _, line in prose(page.read_text()):
        if heading := re.match(r"#{1,6} (.*)", line):
            name, count = slug(heading[1]), 1
            while (anchor := name if count == 1 else f"{name}-{count - 1}") in found:
                count += 1
            found.add(anchor)
    return found


def fault(page: Path, link: str) -> str | None:
    """Returns what is wrong with a link of a page."""
    own = OWN.match(link)
    if not own and re.match(r"[a-z]+:", link):
        return None
    path, _, anchor = (link[own.end():] if own else link).partition("#")
    base = ROOT if own else page.parent
    target = (base / path).resolve() if path else page
    if not target.exists():
        return "no such file"
    book = ROOT / "docs"
    if not own and page.is_relative_to(book) and not target.is_relative_to(book):
        return "leaves the book: write the file's address on GitHub"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return "no such heading"
    return None


def unlisted() -> list[str]:
    """Returns the faults of the book's table of contents."""
    summary = ROOT / "docs/SUMMARY.md"
    listed = {(summary.parent / link).resolve() for link in LINK.findall(summary.read_text())}
    pages = set((ROOT / "docs").rglob("*.md")) - {summary}
    return [f"{page.relative_to(ROOT)}: docs/SUMMARY.md does not list this page" for page in sorted(pages - listed)]


def main() -> None:
    names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"], cwd=ROOT,
                           check=True, capture_output=True, text=True).stdout.split()
    faults, count = unlisted(), 0
    for name in names:
        page = ROOT / name
        if not page.exists():  # deleted, but not yet committed
            continue
        for number, line in prose(page.read_text()):
            for link in LINK.findall(line):
                count += 1
                if wrong := fault(page, link):
                    faults.append(f"{name}:{number}: {link}: {wrong}")
    print("\n".join(faults) or f"{count} links in {len(names)} documents lead somewhere")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
