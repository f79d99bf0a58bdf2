"""HTTP/2 without a client library: frames that no library sends."""

import contextlib
import socket

DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4
EVERY_STREAM = 2**31 - 1
TIMEOUT = 20  # seconds: much longer than the time of any right answer


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def settings(**values: int) -> bytes:
    """A frame of settings: values by name."""
    numbers = {"initial_window_size": INITIAL_WINDOW_SIZE}
    pairs = (numbers[name].to_bytes(2) + value.to_bytes(4) for name, value in values.items())
    return frame(SETTINGS, 0, 0, b"".join(pairs))


START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREFACE = START + settings()


def fields(*pairs: tuple[str, str]) -> bytes:
    """Header fields, without any compression."""
    texts = ([text.encode() for text in pair] for pair in pairs)
    return b"".join(b"\0" + b"".join(length(text) + text for text in pair) for pair in texts)


def length(text: bytes) -> bytes:
    """The length of a text as a number of HPACK with a prefix of seven bits."""
    if len(text) < 127:
        return bytes([len(text)])
    rest, number = len(text) - 127, [127]
    while rest >= 128:
        number.append(rest % 128 + 128)
        rest //= 128
    return bytes([*number, rest])


def head(method: str, path: str, *more: tuple[str, str]) -> bytes:
    """The head of a request."""
    usual = {":method": method, ":scheme": "http", ":path": path, ":authority": "a"}
    return fields(*usual.items(), *more)


class Http2:
    """A connection on which any frames can be sent."""

    def __init__(self, address: str, start: bytes = PREFACE):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), TIMEOUT)
        self.received = self.socket.makefile("rb")
        self.send(start)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.received.close()
        self.socket.close()

    def send(self, *frames: bytes) -> None:
        # The server may close the connection before it has read all bytes.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(b"".join(frames))

    def frames(self, answer_pings: bool = True):
        """All frames until the server closes the connection: type, flags, stream and payload."""
        with contextlib.suppress(ConnectionResetError):  # the server has not read all bytes
            while len(head := self.received.read(9)) == 9:
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
                payload = self.received.read(int.from_bytes(head[:3]))
                if answer_pings and kind == PING and not flags & ACK:
                    self.send(frame(PING, ACK, 0, payload))
                yield kind, flags, stream, payload

    def until(self, kind: int, flags: int = 0) -> tuple[int, bytes]:
        """The stream and the payload of the next frame of this kind with these flags."""
        for found, found_flags, stream, payload in self.frames():
            if found == kind and found_flags & flags == flags:
                return stream, payload
        raise ConnectionError("the server closed the connection")

    def answer_ping(self, *frames: bytes) -> None:
        """Answers the next ping, and sends these frames right behind the answer."""
        for kind, flags, _, payload in self.frames(answer_pings=False):
            if kind == PING and not flags & ACK:
                return self.send(frame(PING, ACK, 0, payload), *frames)
        raise ConnectionError("the server closed the connection")

    def ended(self) -> int | None:
        """The error code with which the server says goodbye; `None` if the end of the connection comes
        first, because the server has not read all bytes."""
        for kind, _, _, payload in self.frames():
            if kind == GOAWAY:
                return int.from_bytes(payload[4:8])
        return None
