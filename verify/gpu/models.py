"""Makes the models of the questions: an image classifier like ResNet-50 and a text encoder like
BERT-base, with random weights, in FP32 and FP16. Needs numpy and onnx."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


@dataclass(frozen=True)
class Size:
    """How large both models are."""

    pixels: int  # width and height of an image
    blocks: tuple[int, ...]  # residual blocks of each stage
    channels: int  # channels of the first stage
    layers: int  # layers of the text encoder
    width: int  # its hidden size
    heads: int
    words: int  # its vocabulary
    length: int  # its longest text


FULL = Size(224, (3, 4, 6, 3), 64, 12, 768, 12, 30522, 512)
SMALL = Size(32, (1, 1), 8, 2, 32, 2, 100, 32)


class Builder:
    """A graph under construction, whose weights have one type."""

    def __init__(self, half: bool) -> None:
        self.type = np.float16 if half else np.float32
        self.code = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self.random = np.random.default_rng(7)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, scale: float) -> str:
        values = self.random.standard_normal(shape, dtype=np.float32) * scale
        return self.constant(values.astype(self.type))

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def linear(self, value: str, columns: int, rows: int) -> str:
        product = self.node("MatMul", value, self.weight(columns, rows, scale=columns ** -0.5))
        return self.node("Add", product, self.weight(rows, scale=0.02))

    def model(self, output: str, inputs: list, outputs: list) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [output], [outputs[0].name]))
        graph = helper.make_graph(self.nodes, "model", inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def image(size: Size, half: bool) -> onnx.ModelProto:
    """Bytes of an image, [rows, height, width, 3], to 1000 numbers."""
    b = Builder(half)

    def convolution(value: str, of: int, to: int, kernel: int, stride: int, scale: float = 1.0) -> str:
        weight = b.weight(to, of, kernel, kernel, scale=scale * (2 / (of * kernel * kernel)) ** 0.5)
        pads = [kernel // 2] * 4
        return b.node("Conv", value, weight, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    value = b.node("Transpose", b.node("Cast", "image", to=b.code), perm=[0, 3, 1, 2])
    value = b.node("Mul", value, b.constant(np.array(1 / 128, b.type)))
    channels = size.channels
    value = b.node("Relu", convolution(value, 3, channels, 7, 2))
    value = b.node("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    of = channels
    for stage, blocks in enumerate(size.blocks):
        inner, to = channels << stage, channels << (stage + 2)
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            branch = b.node("Relu", convolution(value, of, inner, 1, 1))
            branch = b.node("Relu", convolution(branch, inner, inner, 3, stride))
            branch = convolution(branch, inner, to, 1, 1, scale=0.3)
            if block == 0:
                value = convolution(value, of, to, 1, stride, scale=0.7)
            value, of = b.node("Relu", b.node("Add", value, branch)), to
    value = b.node("Flatten", b.node("GlobalAveragePool", value))
    value = b.node("Cast", b.linear(value, of, 1000), to=TensorProto.FLOAT)
    shape = ["rows", size.pixels, size.pixels, 3]
    return b.model(value, [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
                   [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 1000])])


def text(size: Size, half: bool) -> onnx.ModelProto:
    """Numbers of words, [rows, length], to one vector for each text."""
    b = Builder(half)
    width, heads = size.width, size.heads
    end = b.node("Slice", b.node("Shape", "words"), b.constant(np.array([1])), b.constant(np.array([2])))
    positions = b.weight(size.length, width, scale=0.5)
    positions = b.node("Slice", positions, b.constant(np.array([0])), end)
    value = b.node("Add", b.node("Gather", b.weight(size.words, width, scale=1.0), "words"), positions)
    split = b.constant(np.array([0, 0, heads, width // heads]))
    joined = b.constant(np.array([0, 0, width]))
    scale = b.constant(np.array((width // heads) ** -0.5, b.type))

    def norm(value: str) -> str:
        ones = b.constant(np.ones(width, b.type))
        return b.node("LayerNormalization", value, ones, b.weight(width, scale=0.02), epsilon=1e-5)

    def head(value: str, perm: list[int]) -> str:
        return b.node("Transpose", b.node("Reshape", b.linear(value, width, width), split), perm=perm)

    value = norm(value)
    for _ in range(size.layers):
        query, key = head(value, [0, 2, 1, 3]), head(value, [0, 2, 3, 1])
        weights = b.node("Softmax", b.node("Mul", b.node("MatMul", query, key), scale), axis=-1)
        mixed = b.node("MatMul", weights, head(value, [0, 2, 1, 3]))
        mixed = b.node("Reshape", b.node("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        value = norm(b.node("Add", value, b.linear(mixed, width, width)))
        inner = b.linear(value, width, 4 * width)
        # GELU, written out as exporters of this opset do.
        erf = b.node("Erf", b.node("Mul", inner, b.constant(np.array(0.5 ** 0.5, b.type))))
        gate = b.node("Mul", b.node("Add", erf, b.constant(np.array(1, b.type))),
                      b.constant(np.array(0.5, b.type)))
        value = norm(b.node("Add", value, b.linear(b.node("Mul", inner, gate), 4 * width, width)))
    value = b.node("Cast", b.node("ReduceMean", value, axes=[1], keepdims=0), to=TensorProto.FLOAT)
    return b.model(value, [helper.make_tensor_value_info("words", TensorProto.INT64, ["rows", "length"])],
                   [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["rows", width])])


def write(folder: Path, size: Size) -> None:
    """Writes a repository with image, image16, text and text16."""
    length = min(128, size.length)
    warm_up = (f'model_warmup {{ name: "text" batch_size: 1 inputs {{ key: "words" value {{ data_type: '
               f'TYPE_INT64 dims: [ {length} ] random_data: true }} }} }}\n')
    for name, make, half in (("image", image, False), ("image16", image, True),
                             ("text", text, False), ("text16", text, True)):
        path = folder / name / "1" / "model.onnx"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(make(size, half), path)
        if make is text:
            (folder / name / "config.pbtxt").write_text(warm_up)
