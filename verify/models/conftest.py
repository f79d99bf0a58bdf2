"""Lets the programs load the library of onnxruntime-extensions, which is a module of Python, and names the
kinds of models that the suite leaves out."""

import os
import sysconfig
from pathlib import Path

from cases import LEFT_OUT


def pytest_configure() -> None:
    folder, name = (sysconfig.get_config_var(key) for key in ("LIBDIR", "INSTSONAME"))
    library = Path(folder) / name
    if library.suffix == ".a" or not library.exists():
        raise RuntimeError(f"{library} is no shared library: install that of this Python (libpython3)")
    os.environ["LD_PRELOAD"] = str(library)


def pytest_terminal_summary(terminalreporter) -> None:
    for kind, reason in LEFT_OUT.items():
        terminalreporter.write_line(f"left out: {kind}, because {reason}")
