#!/usr/bin/env python3
"""Extracts ONNX Runtime's library from its wheel on PyPI.

Usage: onnxruntime.py [FILE]      (default .cache/onnxruntime/libonnxruntime.so)
"""

import hashlib
import platform
import sys
from pathlib import Path

from wheel import Wheel

VERSION = "1.31.1"
MEMBER = f"onnxruntime/capi/libonnxruntime.so.{VERSION}"

# By machine: SHA-256 of the wheel and of the library.
KNOWN = {
    "x86_64": (
        "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
        "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
    ),
    "aarch64": (
        "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3",
        "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
    ),
}


def main() -> None:
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in KNOWN:
        sys.exit(f"no ONNX Runtime is listed for {platform.system()} {machine}: "
                 "set ORT_DYLIB_PATH to a libonnxruntime of version 1.24 or later")
    wheel_hash, library_hash = KNOWN[machine]
    library = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/onnxruntime/libonnxruntime.so")
    if sha256(library) == library_hash:
        library.touch()
        print(f"{library}: ONNX Runtime {VERSION} is already there")
        return
    Wheel(f"onnxruntime=={VERSION}", f"manylinux_2_28_{machine}", wheel_hash).take({MEMBER: library})
    if sha256(library) != library_hash:
        library.unlink()
        sys.exit(f"{MEMBER} has an unexpected SHA-256")


def sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


if __name__ == "__main__":
    main()
