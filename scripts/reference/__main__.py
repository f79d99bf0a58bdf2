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


def pages() -> dict[str, str]:
    """Returns the text of each page by its name."""
    programs = Path(os.environ.get("BATCHFLEET_PROGRAMS", ROOT / "target/debug"))
    return {
        "flags.md": flags.page(programs),
        "chart.md": chart.page(ROOT / "helm/batchfleet"),
        "modelfleet.md": fleet.page(ROOT / "helm/batchfleet/charts/crds/crds/modelfleets.yaml"),
        "http.md": http_api.page(ROOT / "gateway/openapi.json"),
        "grpc.md": grpc.page(ROOT / "proto/proto/grpc_service.proto"),
    }


def main() -> None:
    faults = errors.faults(PAGES / "errors.md", ROOT)
    for name, text in pages().items():
        page = PAGES / name
        if page.exists() and page.read_text() == text:
            continue
        if "--check" in sys.argv:
            faults.append(f"docs/reference/{name} is out of date: run `make reference`")
        else:
            page.write_text(text)
            print(f"wrote docs/reference/{name}")
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
