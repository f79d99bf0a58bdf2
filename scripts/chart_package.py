#!/usr/bin/env python3
"""Packages the chart; for a release with the names and the digests of its images.

Usage: chart_package.py FOLDER [--repository NAME --digests FILE]

NAME is where the images are, such as registry.example.com/owner/batchfleet, and each line of FILE has the name and the digest
of an image. Needs helm, whose path may be in HELM.
"""

import argparse
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import archive
import version

CHART = version.ROOT / "helm/batchfleet"
IMAGES = ("gateway", "controller", "worker")


def pin(values: Path, repository: str, digests: dict[str, str]) -> None:
    """Writes the names and the digests of the images into the chart's values."""
    text = values.read_text()
    for image in IMAGES:
        for old, new in ((f"  {image}: batchfleet/{image}\n", f"  {image}: {repository}/{image}\n"),
                         (f'    {image}: "" # @pattern', f'    {image}: "{digests[image]}" # @pattern')):
            if text.count(old) != 1:
                raise SystemExit(f"values.yaml has no place for the image {image}: {old.strip()}")
            text = text.replace(old, new)
    values.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repository")
    parser.add_argument("--digests", type=Path)
    asked = parser.parse_args()
    helm, file = os.environ.get("HELM", "helm"), asked.folder / f"batchfleet-{version.version()}.tgz"
    with tempfile.TemporaryDirectory() as work:
        chart = Path(work, "source/batchfleet")
        shutil.copytree(CHART, chart)
        if asked.repository:
            lines = asked.digests.read_text().splitlines()
            pin(chart / "values.yaml", asked.repository, dict(line.split() for line in lines))
        subprocess.run([helm, "package", chart, "--destination", work], check=True, capture_output=True)
        # helm stores the times of this machine.
        with tarfile.open(Path(work, file.name)) as packed:
            packed.extractall(Path(work, "packed"), filter="data")
        archive.write(Path(work, "packed/batchfleet"), file)
    print(file)


if __name__ == "__main__":
    main()
