#!/usr/bin/env python3
"""Checks that the documents name only flags, chart values and metrics that the generated reference has.

Usage: names.py
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs/reference"
DOCUMENTS = [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "SECURITY.md"))]
# Flags of other programs: Triton's server, its clients and perf_analyzer, Prometheus, and helm.
FOREIGN = {
    "--binary-search", "--collect-metrics", "--enable-feature", "--grpc-port", "--http-port", "--input-data",
    "--metrics-port", "--model-control-mode", "--periodic-concurrency-range", "--reset-then-reuse-values",
    "--reuse-values", "--shared-memory", "--streaming",
}
# Groups of chart values; a document that names one of them with a dot means a value, unless it is a file.
GROUPS = "gateway|controller|redis|images|networkPolicy|monitoring|externalMetrics|admissionPolicy|demo|tracing|crds|rbac"
FILES = (".tar", ".yaml", ".md", ".rs", ".json")


def reference(page: str) -> str:
    return (REFERENCE / page).read_text()


def first_column(page: str) -> set[str]:
    """The code in the first column of a page's tables."""
    return set(re.findall(r"^\| `([^`]+)`", reference(page), re.MULTILINE))


def flags(text: str) -> set[str]:
    return set(re.findall(r"`(--[a-z][a-z0-9-]+)", text))


def unknown(text: str, known: dict[str, set[str]]) -> list[str]:
    """Returns the names in a document that the reference does not have."""
    wrong = sorted(flags(text) - known["flags"] - FOREIGN)
    for value in sorted(set(re.findall(rf"`((?:{GROUPS})\.[A-Za-z.]*[A-Za-z])", text))):
        if not value.endswith(FILES) and not is_value(value, known["values"]):
            wrong.append(value)
    for metric in sorted(set(re.findall(r"\bbatchfleet_[a-z_]*[a-z]\b", text))):
        if not any(name.startswith(metric) or metric.removesuffix("_bucket") == name for name in known["metrics"]):
            wrong.append(metric)
    return wrong


def is_value(value: str, values: set[str]) -> bool:
    """Whether this is a value, a group of values, or a part of a value that is an object."""
    return any(value == name or name.startswith(f"{value}.") or value.startswith(f"{name}.") for name in values)


def main() -> None:
    known = {
        "flags": flags(reference("flags.md")) | {"--help", "--version"},
        "values": first_column("chart.md"),
        "metrics": set(re.findall(r"`(batchfleet_[a-z_]+)`", reference("metrics.md"))),
    }
    wrong = [f"{path.relative_to(ROOT)}: the reference has no {name}"
             for path in sorted(DOCUMENTS) for name in unknown(path.read_text(), known)]
    print("\n".join(wrong) or f"{len(DOCUMENTS)} documents name only what the reference has")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
