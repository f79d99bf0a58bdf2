"""HTTP without a client library: sends requests that no library sends, and reads raw answers."""

import contextlib
import http.client
import json
import select
import socket
import struct
from dataclasses import dataclass

TIMEOUT = 20  # seconds: much longer than the time of any right answer
KEY = "a key for everything"  # ignored by servers without keys


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


class Connection:
    """A connection on which any bytes can be sent."""

    def __init__(self, address: str):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), TIMEOUT)
        self.received = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data: bytes) -> None:
        # The server may answer and close the connection before it has read all bytes.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def has_something(self, within: float) -> bool:
        """Whether bytes arrive, or the connection ends, within `within` seconds."""
        return bool(select.select([self.socket], [], [], within)[0])

    def answer(self) -> Answer:
        """The next answer."""
        status = self.received.readline()
        if not status:
            raise ConnectionError("the server closed the connection without an answer")
        headers = http.client.parse_headers(self.received)
        body = self.received.read(int(headers.get("content-length", 0)))
        return Answer(int(status.split(b" ")[1]), headers, body)

    def rest(self) -> bytes:
        """All bytes until the server closes the connection; fails if the server leaves it open."""
        try:
            return self.received.read()
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self.received.close()
        self.socket.close()

    def reset(self) -> None:
        """Resets the connection, as after a crash of the client's machine."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


def ask(
    address: str,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str | None] | None = None,
    announce: int | None = None,
) -> Answer:
    """Sends one request on a new connection. `announce` overrides the Content-Length; headers
    that are None are left out."""
    fields = {"host": address, "connection": "close", "x-api-key": KEY, **(headers or {})}
    fields["content-length"] = str(len(body) if announce is None else announce)
    head = f"{method} {path} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    with Connection(address) as connection:
        connection.send(head.encode() + b"\r\n" + body)
        return connection.answer()


def infer(address: str, model: str, request: dict, **options) -> Answer:
    """Posts an inference request as JSON."""
    return ask(
        address, "POST", f"/v2/models/{model}/infer", json.dumps(request).encode(), **options
    )


def one_input(data: list, datatype: str = "FP32", name: str = "INPUT0", **more) -> dict:
    """A request of one row."""
    shape = [1, len(data)]
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}], **more}
