#!/usr/bin/env python3
"""Generates `digits_wide`: a classifier of handwritten digits that gains much from batches.

Two wide layers of fixed random weights and a readout fitted by ridge regression. On a CPU one image
takes about as long as eight, because most of the time goes into reading 68 MB of weights, which a
batch reads once. The digits are the 8x8 images of the scikit-learn package.

Usage: digits_wide.py [REPOSITORY [TEST_CSV]]    (default .cache/models .cache/digits_test.csv)

Writes REPOSITORY/digits_wide/1/model.onnx and TEST_CSV, one held-out digit a line: its label, its
64 pixels (0 to 16), and the 10 probabilities the model must answer.
"""

import gzip
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from wheel import Wheel, write  # noqa: E402

SCIKIT_LEARN = Wheel(
    "scikit-learn==1.7.2",
    "manylinux2014_x86_64",  # only data is taken from it
    "89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
)
SEED = 20261122
WIDTH = 4096
HELD_OUT = 397
RIDGE = 3e-3  # relative to the mean square of the features
SHARPNESS = 7.0  # of the softmax: confident, yet no two images get the same answer
LEAST_ACCURACY = 0.985
LEAST_DISTANCE = 1e-4  # between any two answers, so that tests detect an answer sent to the wrong client


def main() -> None:
    repository = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/models")
    test_csv = Path(sys.argv[2] if len(sys.argv) > 2 else ".cache/digits_test.csv")

    random = np.random.default_rng(SEED)
    pixels, labels = digits()
    order = random.permutation(len(labels))
    train, held_out = order[HELD_OUT:], order[:HELD_OUT]

    print(f"fitting digits_wide on {len(train)} digits", flush=True)
    layers = hidden_layers(random)
    layers.append(readout(hidden(pixels[train], layers), labels[train]))

    probabilities = predict(pixels[held_out], layers)
    accuracy = np.mean(probabilities.argmax(axis=1) == labels[held_out])
    print(f"digits_wide is right on {accuracy:.1%} of {HELD_OUT} held-out digits", flush=True)
    if accuracy < LEAST_ACCURACY:
        sys.exit(f"the accuracy is below the required {LEAST_ACCURACY:.1%}")
    if closest(probabilities) < LEAST_DISTANCE:
        sys.exit("two held-out digits have nearly the same answer, so tests could not detect a swap")

    write(test_csv, csv(labels[held_out], pixels[held_out], probabilities).encode())
    write(repository / "digits_wide" / "1" / "model.onnx", model(layers).SerializeToString())


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels [n, 64] from 0 to 16, and labels [n]."""
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "digits.csv.gz")
        SCIKIT_LEARN.take({"sklearn/datasets/data/digits.csv.gz": packed})
        with gzip.open(packed) as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    return table[:, :64], table[:, 64].astype(np.int64)


def hidden_layers(random: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random weights and biases. The first layer also scales pixels from 0..16 to about -1..1."""
    first = random.standard_normal((64, WIDTH)) / np.sqrt(64)
    second = random.standard_normal((WIDTH, WIDTH)) * np.sqrt(2 / WIDTH)
    first_bias = random.uniform(-0.5, 0.5, WIDTH) - first.sum(axis=0)
    second_bias = random.uniform(-0.1, 0.1, WIDTH)
    return [(f32(first / 8), f32(first_bias)), (f32(second), f32(second_bias))]


def hidden(pixels: np.ndarray, layers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    features = pixels
    for weights, bias in layers[:2]:
        features = np.maximum(features @ weights + bias, 0)
    return features


def readout(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression to one-hot labels, solved in the space of examples (fewer than features)."""
    features = features.astype(np.float64)
    targets = np.eye(10)[labels]
    mean, offset = features.mean(axis=0), targets.mean(axis=0)
    centred = features - mean
    gram = centred @ centred.T
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
    weights = centred.T @ np.linalg.solve(gram, targets - offset)
    bias = offset - mean @ weights
    return f32(weights * SHARPNESS), f32(bias * SHARPNESS)


def predict(pixels: np.ndarray, layers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    weights, bias = layers[2]
    scores = hidden(pixels, layers) @ weights + bias
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def closest(answers: np.ndarray) -> float:
    """Smallest distance between two rows, by the element in which they differ most."""
    distances = np.abs(answers[:, None] - answers[None]).max(axis=2)
    np.fill_diagonal(distances, np.inf)
    return distances.min()


def model(layers: list[tuple[np.ndarray, np.ndarray]]) -> onnx.ModelProto:
    """The computation of `predict` as an ONNX graph for any batch size."""
    nodes, weights, value = [], [], "pixels"
    for number, (weight, bias) in enumerate(layers):
        weights += [
            numpy_helper.from_array(weight, f"weight{number}"),
            numpy_helper.from_array(bias, f"bias{number}"),
        ]
        total = f"total{number}"
        nodes.append(helper.make_node("Gemm", [value, f"weight{number}", f"bias{number}"], [total]))
        value = f"hidden{number}"
        nodes.append(helper.make_node("Relu", [total], [value]))
    nodes[-1] = helper.make_node("Softmax", [total], ["probabilities"], axis=1)
    graph = helper.make_graph(
        nodes,
        "digits_wide",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(built)
    return built


def csv(labels: np.ndarray, pixels: np.ndarray, probabilities: np.ndarray) -> str:
    names = ["label", *(f"pixel{n}" for n in range(64)), *(f"probability{n}" for n in range(10))]
    lines = [",".join(names)]
    for label, image, answer in zip(labels, pixels, probabilities):
        fields = [str(label), *(f"{pixel:.0f}" for pixel in image), *(f"{p:.6f}" for p in answer)]
        lines.append(",".join(fields))
    return "\n".join(lines) + "\n"


def f32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


if __name__ == "__main__":
    main()
