#!/usr/bin/env python3
"""Prints the types of files, as classified by the model `magika` on a Batchfleet server.

Usage: whatfile.py [--server URL] [--labels FILE] FILE...

Sends one request per file, all of them concurrently, and needs only Python. The features are those of
magika: the first and the last 1024 bytes, without surrounding white space, padded with 256.
"""

import argparse
import json
import struct
import sys
import urllib.error
import urllib.request
from array import array
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SIDE = 1024  # bytes looked at on either end of the file
BLOCK = 4096  # bytes read on either end, before stripping
PADDING = 256
LEAST_BYTES = 8  # shorter files cannot be classified


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--server", default="http://127.0.0.1:8080")
    options.add_argument("--labels", type=Path, default=Path(".cache/models/magika/labels.txt"))
    options.add_argument("files", nargs="+", type=Path, metavar="FILE")
    given = options.parse_args()

    labels = given.labels.read_text().splitlines()
    with ThreadPoolExecutor(max_workers=min(32, len(given.files))) as pool:
        answers = list(pool.map(lambda file: describe(given.server, labels, file), given.files))
    for file, (answer, _) in zip(given.files, answers):
        print(f"{file}: {answer}")
    return 0 if all(known for _, known in answers) else 1


def describe(server: str, labels: list[str], file: Path) -> tuple[str, bool]:
    """The text to print for a file, and whether the request succeeded."""
    try:
        tokens = features(file)
        if tokens is None:
            return "too short to classify", True
        scores = infer(server, tokens)
    except urllib.error.HTTPError as error:
        return f"the server answered {error.code}: {error.read().decode(errors='replace')}", False
    except OSError as error:
        return str(error), False
    best = max(range(len(scores)), key=scores.__getitem__)
    return f"{labels[best]} ({scores[best]:.2f})", True


def features(file: Path) -> array | None:
    with file.open("rb") as content:
        size = content.seek(0, 2)
        content.seek(0)
        start = content.read(BLOCK).lstrip()[:SIDE]
        content.seek(max(0, size - BLOCK))
        end = content.read(BLOCK).rstrip()[-SIDE:]
    if len(start) < LEAST_BYTES:
        return None
    padding = [PADDING] * (2 * SIDE - len(start) - len(end))
    return array("i", [*start, *padding, *end])


def infer(server: str, tokens: array) -> tuple[float, ...]:
    """One row of int32 in, one row of float32 out, as the binary tensor extension sends them."""
    if sys.byteorder == "big":
        tokens.byteswap()
    data = tokens.tobytes()
    parameters = {"binary_data_size": len(data)}
    shape = {"name": "bytes", "datatype": "INT32", "shape": [1, len(tokens)]}
    head = {"inputs": [shape | {"parameters": parameters}], "parameters": {"binary_data_output": True}}
    head = json.dumps(head).encode()
    request = urllib.request.Request(f"{server}/v2/models/magika/infer", data=head + data)
    request.add_header("Content-Type", "application/octet-stream")
    request.add_header("Inference-Header-Content-Length", str(len(head)))
    with urllib.request.urlopen(request, timeout=60) as response:
        head_length = int(response.headers["Inference-Header-Content-Length"])
        scores = response.read()[head_length:]
    return struct.unpack(f"<{len(scores) // 4}f", scores)


if __name__ == "__main__":
    sys.exit(main())
