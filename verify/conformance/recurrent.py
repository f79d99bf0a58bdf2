"""A model like a voice detector: a signal, a state whose rows lie along its second dimension, and a
sampling rate without rows. Random weights."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAME = "voice"
WINDOW, FEATURES, HIDDEN = 64, 16, 32
MAX_BATCH = 32
CONFIG = f"""max_batch_size: {MAX_BATCH}
dynamic_batching {{ max_queue_delay_microseconds: 20000 }}
parameters {{ key: "batch_axis:state" value {{ string_value: "1" }} }}
parameters {{ key: "batch_axis:next_state" value {{ string_value: "1" }} }}
"""


def write(repository: Path) -> list[str]:
    """Fills a model repository. Returns the names of its models."""
    folder = repository / NAME
    (folder / "1").mkdir(parents=True)
    onnx.save(model(), folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(CONFIG)
    return [NAME]


def model() -> onnx.ModelProto:
    """An LSTM step: signal [B, 64], state [2, B, 32] and rate [] to score [B, 1] and next_state."""
    random = np.random.default_rng(20261129)
    constants = []

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    def weight(name: str, *shape: int) -> str:
        values = random.standard_normal(shape) / np.sqrt(shape[-1])
        return constant(name, values.astype(np.float32))

    first = constant("first", np.array([0], dtype=np.int64))
    recurrence = ["steps", weight("W", 1, 4 * HIDDEN, FEATURES), weight("R", 1, 4 * HIDDEN, HIDDEN)]
    projection = weight("projection", WINDOW, FEATURES)
    readout = weight("readout", HIDDEN, 1)
    norm = constant("norm", np.array(16000, dtype=np.float32))
    nodes = [
        helper.make_node("Cast", ["rate"], ["hertz"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["hertz", norm], ["scale"]),
        helper.make_node("MatMul", ["signal", projection], ["projected"]),
        helper.make_node("Mul", ["projected", "scale"], ["features"]),
        helper.make_node("Unsqueeze", ["features", first], ["steps"]),
        helper.make_node("Split", ["state"], ["hidden", "cell"], axis=0, num_outputs=2),
        helper.make_node(
            "LSTM",
            [*recurrence, "", "", "hidden", "cell"],
            ["", "next_hidden", "next_cell"],
            hidden_size=HIDDEN,
        ),
        helper.make_node("Concat", ["next_hidden", "next_cell"], ["next_state"], axis=0),
        helper.make_node("Squeeze", ["next_hidden", first], ["last"]),
        helper.make_node("MatMul", ["last", readout], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]

    def tensor(name: str, shape: list, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    state = [2, "batch", HIDDEN]
    inputs = [
        tensor("signal", ["batch", WINDOW]),
        tensor("state", state),
        tensor("rate", [], TensorProto.INT64),
    ]
    outputs = [tensor("score", ["batch", 1]), tensor("next_state", state)]
    graph = helper.make_graph(nodes, NAME, inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)
