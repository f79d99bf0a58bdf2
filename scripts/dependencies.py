"""The crates that are part of the programs in releases and images, from `cargo metadata`."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ["batchfleet-gateway", "batchfleet-worker", "batchfleet-controller", "batchfleet-cli"]
# The file names with the terms of a crate.
TERMS = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")


@dataclass(frozen=True, order=True)
class Crate:
    """One version of a crate."""

    name: str
    version: str
    license: str
    repository: str
    folder: Path
    external: bool

    def terms(self) -> list[str]:
        """Returns the texts of the crate's files with its license, without differences in white space."""
        files = sorted(file for file in self.folder.iterdir() if file.is_file() and file.name.upper().startswith(TERMS))
        return ["\n".join(line.rstrip() for line in file.read_text(errors="replace").strip().splitlines())
                for file in files]


def metadata(file: Path | None) -> dict:
    """Returns cargo's description of the workspace: of a file, or of this machine's cargo."""
    if file:
        return json.loads(file.read_text())
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target()]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def target() -> str:
    """Returns the platform of this machine's Rust."""
    version = subprocess.run(["rustc", "--version", "--verbose"], check=True, capture_output=True, text=True).stdout
    return next(line.split()[1] for line in version.splitlines() if line.startswith("host:"))


def crates(described: dict) -> list[Crate]:
    """Returns the crates of the programs, without those that only builds and tests need."""
    packages = {package["id"]: package for package in described["packages"]}
    nodes = {node["id"]: node for node in described["resolve"]["nodes"]}
    waiting = [member for member in described["workspace_members"] if packages[member]["name"] in PROGRAMS]
    found: set[str] = set()
    while waiting:
        if (member := waiting.pop()) not in found:
            found.add(member)
            waiting += [needed["pkg"] for needed in nodes[member]["deps"]
                        if any(kind["kind"] is None for kind in needed["dep_kinds"])]
    return sorted(crate(packages[member]) for member in found)


def crate(package: dict) -> Crate:
    """Returns a package as a crate."""
    return Crate(package["name"], package["version"], (package["license"] or "").replace("/", " OR "),
                 package["repository"] or "", Path(package["manifest_path"]).parent,
                 package["source"] is not None)
