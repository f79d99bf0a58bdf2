"""Compares the page of error codes with the codes in the sources of the gateway."""

import re
from pathlib import Path

CODE = r'"([a-z][a-z_]+)"'
SOURCES = [
    # Problems of requests, and the places where their code follows on the next line.
    re.compile(rf"Problem::bad\(\s*{CODE}"),
    re.compile(rf"\bcode(?: =|:) {CODE}"),
    re.compile(rf"Self::bad\(\s*{CODE}"),
    re.compile(rf"error_body\([^;]*?, {CODE}"),
]
MAPPED = re.compile(rf"=> {CODE}|map_or\({CODE}")
ROW = re.compile(r"^\| `([a-z_]+)` \|", re.M)


def without_tests(text: str) -> str:
    """Returns a source file without its module of tests."""
    return re.split(r"#\[cfg\(test\)\]\nmod \w+ \{", text)[0]


def codes(root: Path) -> set[str]:
    """Returns every code that the sources name."""
    found: set[str] = set()
    for folder in ("oip/src", "gateway/src"):
        for path in sorted((root / folder).rglob("*.rs")):
            if path.name in ("tests.rs", "openapi.rs"):
                continue
            text = without_tests(path.read_text())
            for source in SOURCES:
                found.update(source.findall(text))
    for name in ("refusal.rs", "error.rs"):
        for pair in MAPPED.findall(without_tests((root / "gateway/src" / name).read_text())):
            found.update(filter(None, pair))
    return found


def faults(page: Path, root: Path) -> list[str]:
    """Returns what is wrong with the page of error codes."""
    listed, named = set(ROW.findall(page.read_text())), codes(root)
    wrong = [f"docs/reference/errors.md lacks the code {code}" for code in sorted(named - listed)]
    return wrong + [f"docs/reference/errors.md: no source names the code {code}" for code in sorted(listed - named)]
