#!/usr/bin/env python3
"""Lays out what the questions to a GPU need: programs, ONNX Runtime for CUDA, and scripts. With `--parts`, also
packs the folder into parts of at most 60 MB, for a machine without a network.

Usage: pack.py FOLDER [--program FILE] [--architecture 90] [--parts FOLDER]

The libraries of CUDA and cuDNN are not included: they are taken from the machine's Python packages (those of
PyTorch). `--architecture` keeps the kernels of one kind of GPU and blanks out the others, which makes the pack
a third as large.
"""

import argparse
import hashlib
import lzma
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from wheel import Wheel  # noqa: E402

VERSION = "1.31.1"
WHEEL = "e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6"
PART = 60_000_000
SCRIPTS = ["gpu.py", "questions.py", "server.py", "models.py", "take_memory.py", "bare_torch.py"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/batchfleet")
    parser.add_argument("--architecture", type=int, help="such as 90 for H100 and H200")
    parser.add_argument("--parts", type=Path)
    arguments = parser.parse_args()
    lay_out(arguments.folder, arguments.program)
    if arguments.architecture:
        provider = arguments.folder / "lib" / "libonnxruntime_providers_cuda.so"
        blank_out(provider, arguments.architecture)
    if arguments.parts:
        pack(arguments.folder, arguments.parts)


def lay_out(folder: Path, program: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(program, folder / "batchfleet")
    for script in SCRIPTS:
        shutil.copy2(HERE / script, folder)
    wanted = {f"onnxruntime/capi/libonnxruntime.so.{VERSION}": folder / "lib" / "libonnxruntime.so"}
    for name in ("cuda", "shared"):
        file = f"libonnxruntime_providers_{name}.so"
        wanted[f"onnxruntime/capi/{file}"] = folder / "lib" / file
    if not all(path.exists() for path in wanted.values()):
        Wheel(f"onnxruntime-gpu=={VERSION}", "manylinux_2_28_x86_64", WHEEL).take(wanted)
    compiled = subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", folder / "saboteur.so", HERE / "saboteur.c",
                               "-ldl", "-lpthread"], check=False)
    if compiled.returncode:
        print("saboteur.so was not compiled: the question lost_device is left out", file=sys.stderr)


def blank_out(library: Path, architecture: int) -> None:
    """Replaces the kernels for other kinds of GPUs by zeros, at the same offsets."""
    data = bytearray(library.read_bytes())
    blanked = sum(blank_container(data, at, end, architecture) for at, end in containers(data))
    library.write_bytes(data)
    print(f"{library.name}: blanked out {blanked:,} of {len(data):,} bytes")


def containers(data: bytearray) -> list[tuple[int, int]]:
    """Where the containers of kernels begin and end: the ELF section .nv_fatbin is a sequence of them."""
    table, = struct.unpack_from("<Q", data, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, table + at * size) for at in range(count)]
    names = sections[names_at][4]
    found = []
    for name, _, _, _, offset, length in sections:
        begins = names + name
        if data[begins:data.index(0, begins)] != b".nv_fatbin":
            continue
        at, end = offset, offset + length
        while at + 16 <= end:
            magic, _, header, fat = struct.unpack_from("<IHHQ", data, at)
            if magic != 0xBA55ED50:
                at += 8
                continue
            found.append((at + header, at + header + fat))
            at += header + fat
    return found


def blank_container(data: bytearray, at: int, end: int, architecture: int) -> int:
    blanked = 0
    while at + 64 <= end:
        header, size = struct.unpack_from("<IQ", data, at + 4)
        kept, = struct.unpack_from("<I", data, at + 28)
        if kept != architecture:
            data[at + header:at + header + size] = bytes(size)
            blanked += size
        at += header + size
    return blanked


def pack(folder: Path, parts: Path) -> None:
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    archive = parts / "all"
    with lzma.open(archive, "wb", preset=6) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        tar.add(folder, arcname="gpu")
    with archive.open("rb") as stream:
        for number in range(100):
            piece = stream.read(PART)
            if not piece:
                break
            part = parts / f"part-{number:02}"
            part.write_bytes(piece)
            print(f"{part} {len(piece):,} bytes sha256:{hashlib.sha256(piece).hexdigest()}")
    archive.unlink()


if __name__ == "__main__":
    main()
