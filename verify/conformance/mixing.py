"""Small models, some of whose rows influence each other. Their answers must not depend on who else
asks at the same time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A model, and the inputs of the caller with a given number."""

    model: onnx.ModelProto
    inputs: Callable[[int], Inputs]
    batches: bool
    """Whether requests may share a batch."""


def model(nodes, inputs, outputs, constants=(), opset=17, more=()):
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info(*value) for value in inputs],
        [h.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    opsets = [h.make_opsetid("", opset), *(h.make_opsetid(domain, 3) for domain in more)]
    made = h.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(made)
    return made


def random(number: int) -> np.random.Generator:
    return np.random.default_rng(number)


def floats(*shape: int, name: str = "X") -> Callable[[int], Inputs]:
    """Rows of very different size."""
    scales = (1.0, 1e-3, 1e3)

    def inputs(number: int) -> Inputs:
        values = random(number).normal(size=shape) * scales[number % 3]
        return {name: values.astype(np.float32)}

    return inputs


def integers(*shape: int, below: int, name: str = "X") -> Callable[[int], Inputs]:
    return lambda number: {name: random(number).integers(0, below, shape, np.int64)}


def one_to_one(operator: str, columns: int = 4, opset: int = 17, constants=(), **attributes):
    """A model of one operator, whose output has the shape of its input."""
    dims = ["items", columns]
    node = h.make_node(operator, ["X", *(name for name, _ in constants)], ["Y"], **attributes)
    return model([node], [("X", T.FLOAT, dims)], [("Y", T.FLOAT, dims)], constants, opset)


def point_cloud():
    nodes = [
        h.make_node("ReduceMean", ["X"], ["mean"], axes=[0], keepdims=1),
        h.make_node("Sub", ["X", "mean"], ["Y"]),
    ]
    dims = ["num_points", 3]
    return model(nodes, [("X", T.FLOAT, dims)], [("Y", T.FLOAT, dims)])


def time_major():
    """A recurrent network whose first dimension is the time."""
    weights = random(0).normal(size=(1, 4, 3)), random(1).normal(size=(1, 4, 4))
    constants = [(name, np.float32(value)) for name, value in zip("WR", weights)]
    nodes = [
        h.make_node("RNN", ["X", "W", "R"], ["states"], hidden_size=4),
        h.make_node("Squeeze", ["states", "one"], ["Y"]),
    ]
    inputs, outputs = [("X", T.FLOAT, ["time", 2, 3])], [("Y", T.FLOAT, ["time", 2, 4])]
    return model(nodes, inputs, outputs, [*constants, ("one", np.int64([1]))])


def generator():
    """An output as long as the longest row of the batch."""
    nodes = [
        h.make_node("ReduceMax", ["X"], ["longest"], keepdims=0),
        h.make_node("Range", ["zero", "longest", "one"], ["steps"]),
        h.make_node("Less", ["steps", "X"], ["is_in_row"]),
        h.make_node("Cast", ["is_in_row"], ["Y"], to=T.INT64),
    ]
    constants = [("zero", np.int64(0)), ("one", np.int64(1))]
    inputs, outputs = [("X", T.INT64, ["batch", 1])], [("Y", T.INT64, ["batch", "length"])]
    return model(nodes, inputs, outputs, constants)


def dynamically_quantised():
    """A matrix product whose input is quantised with the scale of the whole batch."""
    nodes = [
        h.make_node("DynamicQuantizeLinear", ["X"], ["q", "scale", "zero"]),
        h.make_node("MatMulInteger", ["q", "W", "zero"], ["product"]),
        h.make_node("Cast", ["product"], ["float"], to=T.FLOAT),
        h.make_node("Mul", ["float", "scale"], ["Y"]),
    ]
    weights = random(2).integers(-128, 128, (8, 4)).astype(np.int8)
    inputs, outputs = [("X", T.FLOAT, ["batch", 8])], [("Y", T.FLOAT, ["batch", 4])]
    return model(nodes, inputs, outputs, [("W", weights)])


def mel_spectrogram():
    """Logarithms, clipped to the loudest of the batch less 8."""
    nodes = [
        h.make_node("Abs", ["X"], ["size"]),
        h.make_node("Add", ["size", "tiny"], ["positive"]),
        h.make_node("Log", ["positive"], ["log"]),
        h.make_node("ReduceMax", ["log"], ["loudest"], keepdims=0),
        h.make_node("Sub", ["loudest", "eight"], ["floor"]),
        h.make_node("Max", ["log", "floor"], ["Y"]),
    ]
    constants = [("tiny", np.float32(1e-9)), ("eight", np.float32(8))]
    dims = ["batch", "samples"]
    return model(nodes, [("X", T.FLOAT, dims)], [("Y", T.FLOAT, dims)], constants)


def batch_normalisation():
    """As in training: normalised by the mean and the deviation of the batch."""
    nodes = [
        h.make_node("ReduceMean", ["X"], ["mean"], axes=[0, 2], keepdims=1),
        h.make_node("Sub", ["X", "mean"], ["centred"]),
        h.make_node("Mul", ["centred", "centred"], ["squares"]),
        h.make_node("ReduceMean", ["squares"], ["variance"], axes=[0, 2], keepdims=1),
        h.make_node("Add", ["variance", "tiny"], ["positive"]),
        h.make_node("Sqrt", ["positive"], ["deviation"]),
        h.make_node("Div", ["centred", "deviation"], ["Y"]),
    ]
    dims, tiny = ["batch", 3, 4], ("tiny", np.float32(1e-5))
    return model(nodes, [("X", T.FLOAT, dims)], [("Y", T.FLOAT, dims)], [tiny])


def ranking():
    """All rows in the order of their first column."""
    nodes = [
        h.make_node("Shape", ["X"], ["count"], start=0, end=1),
        h.make_node("TopK", ["X", "count"], ["Y", "order"], axis=0),
    ]
    dims = ["candidates", 2]
    return model(nodes, [("X", T.FLOAT, dims)], [("Y", T.FLOAT, dims), ("order", T.INT64, dims)])


def counting():
    """Integers from which the smallest of the batch is subtracted."""
    nodes = [
        h.make_node("ReduceMin", ["X"], ["least"], keepdims=0),
        h.make_node("Sub", ["X", "least"], ["Y"]),
    ]
    dims = ["batch", 3]
    return model(nodes, [("X", T.INT64, dims)], [("Y", T.INT64, dims)])


def two_batches():
    """Images and captions of any number, as in CLIP."""
    nodes = [
        h.make_node("Transpose", ["captions"], ["t"], perm=[1, 0]),
        h.make_node("MatMul", ["images", "t"], ["scores"]),
    ]
    inputs = [("images", T.FLOAT, ["image_batch", 4]), ("captions", T.FLOAT, ["text_batch", 4])]
    return model(nodes, inputs, [("scores", T.FLOAT, ["image_batch", "text_batch"])])


def images_and_captions(number: int) -> Inputs:
    return {**floats(1, 4, name="images")(number), **floats(3, 4, name="captions")(number + 100)}


def embedding():
    """The mean of rows of a table, which has only seven."""
    nodes = [
        h.make_node("Gather", ["table", "X"], ["rows"]),
        h.make_node("ReduceMean", ["rows"], ["Y"], axes=[1], keepdims=0),
    ]
    table = ("table", random(3).normal(size=(7, 5)).astype(np.float32))
    inputs, outputs = [("X", T.INT64, ["batch", "tokens"])], [("Y", T.FLOAT, ["batch", 5])]
    return model(nodes, inputs, outputs, [table])


def detector():
    """A convolution that cannot run on images of one pixel."""
    weights = ("W", random(4).normal(size=(2, 3, 5, 5)).astype(np.float32))
    node = h.make_node("Conv", ["X", "W"], ["Y"], kernel_shape=[5, 5])
    inputs = [("X", T.FLOAT, ["batch", 3, "height", "width"])]
    return model([node], inputs, [("Y", T.FLOAT, ["batch", 2, "h", "w"])], [weights])


def dense(kind=T.FLOAT, number=np.float32):
    weights = ("W", random(5).normal(size=(8, 4)).astype(number))
    inputs, outputs = [("X", kind, ["batch", 8])], [("Y", kind, ["batch", 4])]
    return model([h.make_node("MatMul", ["X", "W"], ["Y"])], inputs, outputs, [weights])


def classes():
    """Words to numbers."""
    words = [word.encode() for word in ("cat", "dog", "eel")]
    node = h.make_node(
        "LabelEncoder",
        ["X"],
        ["Y"],
        domain="ai.onnx.ml",
        keys_strings=words,
        values_int64s=[1, 2, 3],
        default_int64=0,
    )
    dims = ["batch", 1]
    return model([node], [("X", T.STRING, dims)], [("Y", T.INT64, dims)], more=["ai.onnx.ml"])


def parser():
    """Strings to numbers: fails on words."""
    dims = ["batch", 1]
    node = h.make_node("Cast", ["X"], ["Y"], to=T.FLOAT)
    return model([node], [("X", T.STRING, dims)], [("Y", T.FLOAT, dims)])


def strings(*choice: str) -> Callable[[int], Inputs]:
    return lambda number: {"X": np.array([[choice[number % len(choice)]]], dtype=object)}


def particular():
    """Takes only shapes of 24 elements, which no warm-up guesses."""
    constants = [("W", np.arange(24, dtype=np.float32))]
    node = h.make_node("Reshape", ["W", "X"], ["Y"], allowzero=1)
    inputs, outputs = [("X", T.INT64, [2])], [("Y", T.FLOAT, ["rows", "columns"])]
    return model([node], inputs, outputs, constants)


def shapes_of_24(number: int) -> Inputs:
    return {"X": np.int64([[2, 12], [3, 8], [4, 6]][number % 3])}


CASES = {
    "point_cloud": Case(point_cloud(), floats(3, 3), False),
    "candidates": Case(one_to_one("Softmax", axis=0), floats(3, 4), False),
    "hardmax": Case(one_to_one("Hardmax", axis=0), floats(2, 4), False),
    "cumulative": Case(
        one_to_one("CumSum", constants=[("axis", np.int64(0))]), floats(2, 4), False
    ),
    "time_major": Case(time_major(), floats(3, 2, 3), False),
    "generator": Case(generator(), integers(1, 1, below=9), False),
    "dynamically_quantised": Case(dynamically_quantised(), floats(1, 8), False),
    "mel_spectrogram": Case(mel_spectrogram(), floats(1, 40), False),
    "batch_normalisation": Case(batch_normalisation(), floats(2, 3, 4), False),
    "ranking": Case(ranking(), floats(2, 2), False),
    "counting": Case(counting(), integers(1, 3, below=100), False),
    "two_batches": Case(two_batches(), images_and_captions, False),
    "particular": Case(particular(), shapes_of_24, False),
    "embedding": Case(embedding(), integers(1, 6, below=7), True),
    "detector": Case(detector(), floats(1, 3, 12, 9), True),
    "dense": Case(dense(), floats(2, 8), True),
    "dense_half": Case(
        dense(T.FLOAT16, np.float16),
        lambda number: {"X": random(number).normal(size=(1, 8)).astype(np.float16)},
        True,
    ),
    "softmax": Case(one_to_one("Softmax", axis=-1), floats(1, 4), True),
    "cumulative_rows": Case(
        one_to_one("CumSum", constants=[("axis", np.int64(1))]), floats(1, 4), True
    ),
    "classes": Case(classes(), strings("cat", "dog", "eel", "yak"), True),
    "parser": Case(parser(), strings("1.5", "-2", "1e3"), True),
}


def write(repository: Path) -> list[str]:
    """Fills a model repository. Returns the names of its models."""
    for name, case in CASES.items():
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        onnx.save(case.model, folder / "model.onnx")
    return list(CASES)
