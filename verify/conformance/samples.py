"""One row of values for every datatype, including extremes that servers must return unchanged."""

import ml_dtypes
import numpy as np

from repository import DATATYPES

_INTEGERS = {name: np.dtype(name.lower()) for name in DATATYPES if "INT" in name}
_FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BF16": ml_dtypes.bfloat16}


def row(datatype: str) -> np.ndarray:
    """Shape [1, n]."""
    if datatype == "BOOL":
        return np.array([[True, False, False, True]])
    if datatype == "BYTES":
        return np.array([[b"", b"digit", "zażółć \u2603".encode(), b'"\\\n\x00']], dtype=object)
    if datatype in _INTEGERS:
        kind = _INTEGERS[datatype]
        limits = np.iinfo(kind)
        return np.array([[limits.min, 0, 1, limits.max]], dtype=kind)
    kind = _FLOATS[datatype]
    limits = ml_dtypes.finfo(kind)
    values = [limits.min, -0.0, limits.smallest_subnormal, 1 / 3, 1.0, limits.max]
    return np.array([values], dtype=kind)


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether the arrays are equal bit by bit."""
    if left.dtype == object:
        return left.shape == right.shape and left.tolist() == right.tolist()
    return (left.shape, left.dtype, left.tobytes()) == (right.shape, right.dtype, right.tobytes())
