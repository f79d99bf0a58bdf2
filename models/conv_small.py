#!/usr/bin/env python3
"""Generates `conv_small`: a small convolutional network with random weights, for the benchmark.

A convolution reuses its few weights for every pixel, so a CPU gains almost nothing from batches. Most
image models are like this; `digits_wide` is the opposite.

Usage: conv_small.py [REPOSITORY]    (default .cache/bench-models)

Writes REPOSITORY/conv_small/1/model.onnx: [batch, 3, 32, 32] to [batch, 10].
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from wheel import write  # noqa: E402

SEED = 20261122
CHANNELS = [3, 32, 64, 128]
CLASSES = 10


def main() -> None:
    repository = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/bench-models")
    write(repository / "conv_small" / "1" / "model.onnx", model().SerializeToString())


def model() -> onnx.ModelProto:
    """Three strided convolutions, a global mean and a linear readout."""
    random = np.random.default_rng(SEED)
    nodes, weights, value = [], [], "image"

    def weight(name: str, shape: tuple[int, ...]) -> str:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        values = (random.standard_normal(shape) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(values, name))
        return name

    for number, (inputs, outputs) in enumerate(zip(CHANNELS, CHANNELS[1:])):
        kernel = weight(f"kernel{number}", (outputs, inputs, 3, 3))
        convolved = f"convolved{number}"
        strides = [1, 1] if number == 0 else [2, 2]
        nodes.append(
            helper.make_node("Conv", [value, kernel], [convolved], pads=[1] * 4, strides=strides)
        )
        nodes.append(helper.make_node("Relu", [convolved], [f"hidden{number}"]))
        value = f"hidden{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["features"]))
    readout = weight("readout", (CLASSES, CHANNELS[-1]))
    nodes.append(helper.make_node("Gemm", ["features", readout], ["scores"], transB=1))
    graph = helper.make_graph(
        nodes,
        "conv_small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        weights,
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(built)
    return built


if __name__ == "__main__":
    main()
