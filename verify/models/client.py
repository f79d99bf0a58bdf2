"""A client of the Open Inference Protocol that sends and receives all tensors as bytes."""

import http.client
import json
import struct

import numpy as np

TIMEOUT = 60  # seconds: much longer than the time of any right answer
DATATYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
NAMES = {np.dtype(kind): name for name, kind in DATATYPES.items()}

Tensors = dict[str, np.ndarray]


class Client:
    """One connection; not for several threads at once."""

    def __init__(self, address: str):
        self.connection = http.client.HTTPConnection(address, timeout=TIMEOUT)

    def get(self, path: str) -> tuple[int, dict]:
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")

    def infer(self, model: str, inputs: Tensors) -> Tensors:
        described, data = [], b""
        for name, array in inputs.items():
            bytes_ = encode(array)
            described.append(
                {
                    "name": name,
                    "datatype": NAMES.get(array.dtype, "BYTES"),
                    "shape": array.shape,
                    "parameters": {"binary_data_size": len(bytes_)},
                }
            )
            data += bytes_
        head = {"inputs": described, "parameters": {"binary_data_output": True}}
        head = json.dumps(head).encode()
        headers = {"inference-header-content-length": str(len(head))}
        self.connection.request("POST", f"/v2/models/{model}/infer", head + data, headers)
        answer = self.connection.getresponse()
        body = answer.read()
        assert answer.status == 200, f"{model}: {answer.status} {body[:1000].decode()}"
        length = int(answer.headers["inference-header-content-length"])
        return decode(json.loads(body[:length])["outputs"], body[length:])


def encode(array: np.ndarray) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    strings = [s.encode() if isinstance(s, str) else s for s in array.flat]
    return b"".join(struct.pack("<I", len(string)) + string for string in strings)


def decode(outputs: list[dict], data: bytes) -> Tensors:
    tensors = {}
    for output in outputs:
        size = output["parameters"]["binary_data_size"]
        mine, data = data[:size], data[size:]
        if output["datatype"] == "BYTES":
            flat = np.array(strings(mine), dtype=object)
        else:
            flat = np.frombuffer(mine, DATATYPES[output["datatype"]])
        tensors[output["name"]] = flat.reshape(output["shape"])
    assert not data, f"{len(data)} bytes after the last output"
    return tensors


def strings(data: bytes) -> list[bytes]:
    found = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found
