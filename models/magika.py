#!/usr/bin/env python3
"""Extracts `magika`, a model that classifies files by type, from its wheel on PyPI.

Usage: magika.py [REPOSITORY]    (default .cache/models)

Writes REPOSITORY/magika/1/model.onnx and, beside the version, labels.txt: the name of each of the
model's outputs, one a line.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from wheel import Wheel, write  # noqa: E402

MAGIKA = Wheel(
    "magika==1.0.3",
    "manylinux_2_28_x86_64",  # only data is taken from it
    "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
)
MODEL_SHA256 = "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"
FOLDER = "magika/models/standard_v3_3"


def main() -> None:
    model = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/models", "magika")
    onnx, labels = model / "1" / "model.onnx", model / "labels.txt"
    if labels.exists() and onnx.exists() and sha256(onnx) == MODEL_SHA256:
        onnx.touch()
        print(f"{onnx}: already there")
        return
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.json")
        MAGIKA.take({f"{FOLDER}/config.min.json": config, f"{FOLDER}/model.onnx": onnx})
        names = json.loads(config.read_text())["target_labels_space"]
    write(labels, "".join(f"{name}\n" for name in names).encode())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
