"""Lets the programs load the library of onnxruntime-extensions, which is a module of Python."""

import os
import sysconfig
from pathlib import Path


def pytest_configure() -> None:
    folder, name = (sysconfig.get_config_var(key) for key in ("LIBDIR", "INSTSONAME"))
    library = Path(folder) / name
    if library.suffix == ".a" or not library.exists():
        raise RuntimeError(f"{library} is no shared library: install that of this Python (libpython3)")
    os.environ["LD_PRELOAD"] = str(library)
