"""The engine of the servers of Python: one thread of ONNX Runtime."""

import os

import numpy as np
import onnxruntime

from digits import INPUT, MODEL, OUTPUT


def session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    file = os.path.join(os.environ["MODELS"], MODEL, "1", "model.onnx")
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def recognise(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> np.ndarray:
    (probabilities,) = session.run([OUTPUT], {INPUT: pixels})
    return probabilities
