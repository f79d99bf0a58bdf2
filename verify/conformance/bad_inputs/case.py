"""An invalid or unusual request, and the expected answer."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from wire import Answer, ask


@dataclass(frozen=True)
class Case:
    """A request and the expected answer. The name begins with the number of the kind of input."""

    name: str
    status: int
    code: str | None = None  # x-error-code; None: any
    body: bytes = b""
    model: str = "echo_fp32"
    path: str = ""  # "": the path of the model's inference
    method: str = "POST"
    headers: dict[str, str | None] = field(default_factory=dict)
    announced: int | None = None  # a Content-Length other than the body's
    holds: Callable[[Answer], bool] = lambda answer: True  # a further check of the answer

    def ask(self, address: str) -> Answer:
        path = self.path or f"/v2/models/{self.model}/infer"
        return ask(address, self.method, path, self.body, self.headers, self.announced)


def bad(name: str, body: object, code: str | None = None, **more) -> Case:
    """A request that must be answered 400."""
    return Case(name, 400, code, encode(body), **more)


def good(name: str, body: object, **more) -> Case:
    """A request that looks invalid, but must be answered 200."""
    return Case(name, 200, body=encode(body), **more)


def encode(body: object) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def tensor(**fields) -> dict:
    """An input of two numbers. `fields` replace its fields; `...` leaves a field out."""
    whole = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]} | fields
    return {key: value for key, value in whole.items() if value is not ...}


def request(*inputs: dict, **more) -> dict:
    """A request with these inputs, or with one input of two numbers."""
    return {"inputs": list(inputs) or [tensor()], **more}


def values(*data: object, datatype: str = "FP32") -> dict:
    """A request of one row with these elements."""
    return request(tensor(datatype=datatype, shape=[1, len(data)], data=list(data)))


def literal(text: str, datatype: str = "FP32") -> str:
    """A request with one element, written as `text`."""
    return json.dumps(values("@", datatype=datatype)).replace('"@"', text)


def binary(head: object, tail: bytes, length: object = None) -> dict:
    """Body and headers of a request in the binary form; `length` overrides the JSON's length."""
    head = encode(head)
    length = len(head) if length is None else length
    return {"body": head + tail, "headers": {"Inference-Header-Content-Length": str(length)}}


def binary_tensor(size: object, **fields) -> dict:
    """An input of two numbers whose elements follow the JSON."""
    return tensor(data=..., parameters={"binary_data_size": size}, **fields)


def floats(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def strings(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
