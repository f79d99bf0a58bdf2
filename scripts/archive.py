#!/usr/bin/env python3
"""Writes a folder as a compressed archive whose bytes follow from its files alone.

Usage: archive.py FOLDER FILE      the archive's top folder is that of FOLDER; SOURCE_DATE_EPOCH is the time of all files
"""

import gzip
import os
import sys
import tarfile
from pathlib import Path


def write(folder: Path, file: Path) -> None:
    """Writes an archive with sorted names, and without owners and times of this machine."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path in [folder, *sorted(folder.rglob("*"))]:
                archive.add(path, path.relative_to(folder.parent), recursive=False, filter=plain)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
