#!/usr/bin/env python3
"""Takes the memory of a GPU but for some megabytes, until it is ended. Prints the megabytes left.

Usage: take_memory.py MEGABYTES
"""

import ctypes
import sys
import time
from pathlib import Path


def runtime() -> ctypes.CDLL:
    names = ["libcudart.so.13", "libcudart.so.12"]
    names += [str(file) for path in sys.path for file in Path(path).glob("nvidia/*/lib/libcudart.so.1?")]
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    sys.exit("no library of the CUDA runtime was found")


def main() -> None:
    cuda, leave = runtime(), int(sys.argv[1]) << 20
    free, total, pointer = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
    step = 4 << 30
    while step >= 16 << 20:
        cuda.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        if free.value < leave + step or cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(step)):
            step //= 2
    cuda.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    print(free.value >> 20, flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
