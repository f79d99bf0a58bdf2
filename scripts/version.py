#!/usr/bin/env python3
"""The version of Batchfleet, whose source is Cargo.toml.

Usage: version.py              prints it
       version.py --check      fails if a file has another version
       version.py --set X.Y.Z  writes it into every file
       version.py --notes      prints what CHANGELOG.md says about it
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NUMBER = r"\d+\.\d+\.\d+"
SOURCE = ("Cargo.toml", rf'(?m)^(version = ")({NUMBER})(")')
# Every other place that names the version.
COPIES = [
    ("gateway/openapi.json", rf'("version": ")({NUMBER})(")'),
    ("helm/batchfleet/Chart.yaml", rf"(?m)^((?:version|appVersion|    version): )({NUMBER})()$"),
    ("helm/batchfleet/charts/crds/Chart.yaml", rf"(?m)^(version: )({NUMBER})()$"),
    *((f"helm/batchfleet/examples/{name}.yaml", rf"(batchfleet/worker-cuda:)({NUMBER})()") for name in (
        "gpu", "gpu-mig", "gpu-time-slicing")),
    ("helm/tests/test_conventions.py", rf"(batchfleet/controller:)({NUMBER})()"),
]


def version() -> str:
    """Returns the version of the workspace."""
    path, pattern = SOURCE
    return re.search(pattern, (ROOT / path).read_text())[2]


def differences() -> list[str]:
    """Returns the places whose version is not that of the workspace."""
    wrong = []
    for path, pattern in COPIES:
        found = [match[2] for match in re.finditer(pattern, (ROOT / path).read_text())]
        if not found or set(found) != {version()}:
            wrong.append(f"{path} has {', '.join(found) or 'no version'}, Cargo.toml has {version()}")
    return wrong


def write(new: str) -> None:
    """Writes a version into every file, and into the lock files."""
    for path, pattern in [SOURCE, *COPIES]:
        file = ROOT / path
        count = 1 if path == SOURCE[0] else 0
        file.write_text(re.sub(pattern, lambda match: match[1] + new + match[3], file.read_text(), count=count))
    for folder in (ROOT, ROOT / "verify/fuzz"):
        subprocess.run(["cargo", "update", "--workspace", "--offline", "--quiet"], cwd=folder, check=True)


def notes() -> str:
    """Returns the section of the changelog for this version."""
    text = (ROOT / "CHANGELOG.md").read_text()
    section = re.search(rf"(?ms)^## \[?{re.escape(version())}\]?[^\n]*\n(.*?)(?=^## |\Z)", text)
    if not section:
        sys.exit(f"CHANGELOG.md has no section for {version()}")
    return section[1].strip()


def main() -> None:
    match sys.argv[1:]:
        case []:
            print(version())
        case ["--check"]:
            wrong = differences()
            print("\n".join(wrong) or f"every file has version {version()}")
            sys.exit(bool(wrong))
        case ["--set", new] if re.fullmatch(NUMBER, new):
            write(new)
        case ["--notes"]:
            print(notes())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
