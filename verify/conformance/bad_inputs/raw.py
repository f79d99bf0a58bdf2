"""Bytes sent over a connection, and the expected answer."""

from collections.abc import Callable
from dataclasses import dataclass

from wire import KEY, Answer, Connection

from .case import encode, request
from .checks import UNPARSED

GOOD = encode(request())
INFER = "POST /v2/models/echo_fp32/infer HTTP/1.1"
HEALTH = "GET /v2/health/live HTTP/1.1"
CHUNKED = "transfer-encoding: chunked"


def head(*fields: str, line: str = INFER, key: str | None = KEY, host: bool = True) -> bytes:
    """The head of a request."""
    lines = [line, *(["host: test"] * host), *([f"x-api-key: {key}"] if key else []), *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def post(*fields: str, body: bytes = GOOD, **more) -> bytes:
    """A request with a body and its Content-Length."""
    return head(f"content-length: {len(body)}", *fields, **more) + body


def chunks(body: bytes, size: int) -> bytes:
    """A body in chunks, without the last chunk."""
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def chunked(body: bytes, size: int = 1 << 16) -> bytes:
    """A whole body in chunks."""
    return chunks(body, size) + b"0\r\n\r\n"


@dataclass(frozen=True)
class Raw:
    """The bytes sent on a connection, the expected first answer, and whether the connection stays
    open."""

    name: str
    sent: bytes
    status: int
    code: str | None = None
    open: bool = False  # whether the connection must serve another request
    holds: Callable[[Answer], bool] = lambda answer: True  # a further check of the answer

    def ask(self, address: str) -> Answer:
        with Connection(address) as connection:
            connection.send(self.sent)
            answer = connection.answer()
            if self.open:
                connection.send(post())
                assert connection.answer().status == 200
            else:
                assert connection.rest() == b"", "the server must not answer a second request"
            return answer


def unparsed(name: str, sent: bytes, status: int = 400) -> Raw:
    """Bytes that the HTTP parser must refuse."""
    return Raw(name, sent, status, UNPARSED)


def taken(name: str, sent: bytes) -> Raw:
    """The plain request in a form that looks invalid, but must be answered 200."""
    answered = lambda answer: answer.outputs() == {"OUTPUT0": [1.0, 2.0]}  # noqa: E731
    return Raw(name, sent, 200, open=True, holds=answered)
