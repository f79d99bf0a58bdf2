"""Writes the pages of the book's reference from what the programs, the chart and the protocols say.

Usage: python scripts/reference [--check]     `make reference` runs it; the check fails if a page is out of date

Needs the programs (target/debug, or the folder BATCHFLEET_PROGRAMS) and PyYAML.
"""

import os
import sys
from pathlib import Path

import chart
import errors
import fleet
import flags
import grpc
import http_api

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ROOT / "docs/reference"


CHART = ROOT / "helm/batchfleet"


def pages() -> dict[Path, str]:
    """Returns the text of each page by its path."""
    programs = Path(os.environ.get("BATCHFLEET_PROGRAMS", ROOT / "target/debug"))
    return {
        PAGES / "flags.md": flags.page(programs),
        PAGES / "chart.md": chart.page(CHART),
        CHART / "README.md": chart.readme(CHART),
        PAGES / "modelfleet.md": fleet.page(CHART / "charts/crds/crds/modelfleets.yaml"),
        PAGES / "http.md": http_api.page(ROOT / "gateway/openapi.json"),
        PAGES / "grpc.md": grpc.page(ROOT / "proto/proto/grpc_service.proto"),
    }


def main() -> None:
    faults = errors.faults(PAGES / "errors.md", ROOT)
    for page, text in pages().items():
        name = page.relative_to(ROOT)
        if page.exists() and page.read_text() == text:
            continue
        if "--check" in sys.argv:
            faults.append(f"{name} is out of date: run `make reference`")
        else:
            page.write_text(text)
            print(f"wrote {name}")
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
