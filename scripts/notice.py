#!/usr/bin/env python3
"""Writes the notice of third-party software in the programs: every crate with its license, and the texts of the licenses.

Usage: notice.py FILE [METADATA]      METADATA is the output of `cargo metadata`, in place of this machine's cargo
"""

import sys
from collections import defaultdict
from pathlib import Path

import dependencies

HEAD = """Batchfleet is licensed under Apache-2.0 (see LICENSE). Its programs contain the following software. Workers also load
ONNX Runtime (Microsoft, MIT; https://github.com/microsoft/onnxruntime), whose own notices are in its package onnxruntime on
PyPI as ThirdPartyNotices.txt. Images contain the certificate authorities of Mozilla (MPL-2.0) and packages of Debian, whose
terms are in /usr/share/doc. Images for GPUs contain libraries of NVIDIA under NVIDIA's terms.
"""


def notice(crates: list[dependencies.Crate]) -> str:
    """Returns the notice. A text that several crates share is printed once."""
    lines = [HEAD, "Crates", "======", ""]
    texts: dict[str, list[str]] = defaultdict(list)
    for crate in crates:
        lines.append(f"{crate.name} {crate.version}: {crate.license}, {crate.repository}")
        for text in crate.terms():
            texts[text].append(f"{crate.name} {crate.version}")
    for text, names in texts.items():
        lines += ["", "=" * 80, "Of " + ", ".join(names), "=" * 80, "", text]
    return "\n".join(lines) + "\n"


def main() -> None:
    file = Path(sys.argv[1])
    described = dependencies.metadata(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    crates = [crate for crate in dependencies.crates(described) if crate.external]
    if unlicensed := [crate.name for crate in crates if not crate.license]:
        sys.exit(f"no license is declared by {', '.join(unlicensed)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(notice(crates))
    print(f"{file}: {len(crates)} crates")


if __name__ == "__main__":
    main()
