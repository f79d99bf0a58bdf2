"""Short ways to make tritonclient's tensors."""

import numpy as np
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype


def given(values: np.ndarray, name: str = "INPUT0", binary: bool = True) -> InferInput:
    tensor = InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return tensor.set_data_from_numpy(values, binary_data=binary)


def wanted(name: str = "OUTPUT0", binary: bool = True) -> InferRequestedOutput:
    return InferRequestedOutput(name, binary_data=binary)
