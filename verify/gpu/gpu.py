#!/usr/bin/env python3
"""Asks a GPU, on the machine that has it, what only a GPU can tell. Prints one JSON line for each question,
so that a run that is cut off still tells, and a table at the end.

Usage: gpu.py [--device cuda|cpu] [--program FILE] [--library FILE] [--models DIR] [--only NAME,...]

Needs Python 3.11 with numpy and onnx; PyTorch, if it is there, is compared. With `--device cpu`, small models
run on the processor: this tests the script, and the paths that both devices share.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import models  # noqa: E402
from questions import QUESTIONS, Bench  # noqa: E402
from server import Programs  # noqa: E402

FAULTS = {
    "oom": {"oom_rows": "4", "oom_marker": "scarcity", "batch_ms": "1"},
    "fatal": {"fatal_marker": "lose me!", "batch_ms": "1"},
}


def main() -> int:
    arguments = parse()
    only = arguments.only.split(",") if arguments.only else [name for name, _ in QUESTIONS]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        faults = Path(folder, "faults")
        write_faults(faults)
        repository = arguments.models or Path(folder, "models")
        size = models.FULL if arguments.device == "cuda" else models.SMALL
        models.write(repository, size)
        program = arguments.program.resolve()
        programs = Programs(program, arguments.library.resolve(), arguments.device, environment(arguments))
        saboteur = HERE / "saboteur.so"
        bench = Bench(programs, repository, faults, size, saboteur if saboteur.exists() else None,
                      arguments.seconds)
        for number, (name, question) in enumerate(QUESTIONS, 1):
            if name in only:
                results.append(ask(number, name, question, bench))
    table(results)
    return int(any(result["passed"] is False for result in results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--program", type=Path, default=HERE / "batchfleet")
    parser.add_argument("--library", type=Path, default=HERE / "lib" / "libonnxruntime.so")
    parser.add_argument("--models", type=Path, help="keep the generated models in this folder")
    parser.add_argument("--only", help="names of questions, separated by commas")
    parser.add_argument("--seconds", type=float, default=6.0, help="duration of each load")
    return parser.parse_args()


def environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Where the libraries of CUDA are: beside ONNX Runtime, or in Python's packages."""
    folders = [str(arguments.library.resolve().parent)]
    for path in map(Path, sys.path):
        folders += [str(folder) for folder in sorted(path.glob("nvidia/*/lib"))]
    folders += filter(None, [os.environ.get("LD_LIBRARY_PATH")])
    return {"LD_LIBRARY_PATH": ":".join(folders)}


def write_faults(folder: Path) -> None:
    """Echo models that run out of memory, and lose their device."""
    tensor = '[ { name: "X" data_type: TYPE_UINT8 dims: [ 8 ] } ]'
    for name, parameters in FAULTS.items():
        lines = [f'backend: "batchfleet_echo"\nmax_batch_size: 16\ninput {tensor}\noutput {tensor}']
        lines += [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
                  for key, value in parameters.items()]
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text("\n".join(lines))


def ask(number: int, name: str, question, bench: Bench) -> dict:
    began = time.monotonic()
    try:
        passed, figures = question(bench)
    except Exception as error:  # noqa: BLE001 - the other questions are asked all the same
        passed, figures = False, {"error": f"{type(error).__name__}: {error}"}
    result = {"question": number, "name": name, "asks": question.__doc__, "passed": passed, "figures": figures,
              "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(result), flush=True)
    return result


def table(results: list[dict]) -> None:
    print(f"\n{'question':<14} {'answer':<12} {'seconds':>8}  asks")
    for result in results:
        answer = {True: "as hoped", False: "NOT as hoped", None: "measured"}[result["passed"]]
        print(f"{result['name']:<14} {answer:<12} {result['seconds']:>8}  {result['asks']}")
    failed = sum(result["passed"] is False for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")


if __name__ == "__main__":
    sys.exit(main())
