#!/usr/bin/env python3
"""Tests how kernels are blanked out, and that parts add up to the whole."""

import io
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pack

KEPT, OTHER = 90, 75


def entry(architecture: int, payload: bytes) -> bytes:
    head = struct.pack("<HHIQ", 2, 1, 64, len(payload)) + bytes(12) + struct.pack("<I", architecture)
    return head.ljust(64, b"h") + payload


def container(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def library(fatbin: bytes) -> bytes:
    """An ELF file with the sections .nv_fatbin and .shstrtab."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    offset = 64
    table = offset + len(fatbin) + len(names)
    head = bytearray(64)
    head[:4] = b"\x7fELF"
    struct.pack_into("<Q", head, 0x28, table)
    struct.pack_into("<HHH", head, 0x3A, 64, 3, 2)

    def section(name: int, at: int, length: int) -> bytes:
        return struct.pack("<IIQQQQ", name, 1, 0, 0, at, length).ljust(64, b"\0")

    sections = section(0, 0, 0) + section(1, offset, len(fatbin)) + section(12, offset + len(fatbin), len(names))
    return bytes(head) + fatbin + names + sections


def only_other_kernels_are_blanked_out(folder: Path) -> None:
    file = folder / "lib.so"
    fatbin = container(entry(KEPT, b"kept" * 4), entry(OTHER, b"gone" * 4)) + bytes(8) + container(
        entry(OTHER, b"gone" * 2), entry(KEPT, b"kept" * 2))
    file.write_bytes(library(fatbin))
    pack.blank_out(file, KEPT)
    after = file.read_bytes()
    assert len(after) == len(library(fatbin))
    assert b"gone" not in after and after.count(b"kept") == 6
    assert after.count(struct.pack("<I", OTHER)) == 2, "headers stay"


def parts_add_up(folder: Path) -> None:
    source, parts = folder / "source", folder / "parts"
    source.mkdir()
    content = {name: bytes(range(256)) * 50 + name.encode() for name in ("one", "two")}
    for name, data in content.items():
        (source / name).write_bytes(data)
    pack.PART = 100
    pack.pack(source, parts)
    files = sorted(parts.iterdir())
    assert len(files) > 1 and all(file.stat().st_size <= 100 for file in files)
    whole = b"".join(file.read_bytes() for file in files)
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r:xz") as tar:
        for name, data in content.items():
            assert tar.extractfile(f"gpu/{name}").read() == data
    subprocess.run(["tar", "--list", "--xz", "--file", "-"], input=whole, check=True, capture_output=True)


def main() -> None:
    for test in (only_other_kernels_are_blanked_out, parts_add_up):
        with tempfile.TemporaryDirectory() as folder:
            test(Path(folder))
        print(f"ok       {test.__name__.replace('_', ' ')}")


if __name__ == "__main__":
    sys.exit(main())
