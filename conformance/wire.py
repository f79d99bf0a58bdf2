"""HTTP by hand, for what no client would send and for looking at bare answers."""

import contextlib
import http.client
import json
import socket
from dataclasses import dataclass

TIMEOUT = 20  # seconds: far beyond any good answer


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self):
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        return self.headers.get("x-error-code")

    def outputs(self) -> dict[str, list]:
        """The outputs of a JSON answer: data by name."""
        return {output["name"]: output["data"] for output in self.json()["outputs"]}


def ask(
    address: str,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    announce: int | None = None,
) -> Answer:
    """Sends one request on a new connection. `announce` overrides the Content-Length."""
    fields = {"host": address, "connection": "close", **(headers or {})}
    fields["content-length"] = str(len(body) if announce is None else announce)
    head = f"{method} {path} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), TIMEOUT) as connection:
        # The server may have answered and closed before it has read all.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head.encode() + b"\r\n" + body)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        return Answer(response.status, response.headers, response.read())


def infer(address: str, model: str, request: dict, **options) -> Answer:
    """Posts an inference request as JSON."""
    return ask(
        address, "POST", f"/v2/models/{model}/infer", json.dumps(request).encode(), **options
    )


def one_input(data: list, datatype: str = "FP32", name: str = "INPUT0", **more) -> dict:
    """A request of one row."""
    shape = [1, len(data)]
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}], **more}
