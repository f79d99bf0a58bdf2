"""Sends cases over HTTP/2."""

import http.client

import httpx

from wire import KEY, TIMEOUT, Answer

from .case import Case


MOST = 64 << 20  # bytes of a body


def has_http2_form(case: Case) -> bool:
    """Whether httpx can send the case: the length is that of the body, headers have no line ends, and the
    body is not too large, because httpx fails when the refusal comes before the end of the body."""
    has_line_ends = any("\n" in (value or "") for value in case.headers.values())
    return case.announced is None and not has_line_ends and len(case.body) <= MOST


class Http2Client:
    """A client whose requests share a connection."""

    def __init__(self, address: str):
        self.address = address
        self.client = httpx.Client(http1=False, http2=True, timeout=TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def ask(self, case: Case) -> Answer:
        target = case.path or f"/v2/models/{case.model}/infer"
        fields = {"x-api-key": KEY, **case.headers}
        request = httpx.Request(
            case.method,
            f"http://{self.address}/",
            headers={name: value for name, value in fields.items() if value is not None},
            content=case.body,
            extensions={"target": target.encode("latin-1")},
        )
        answer = self.client.send(request)
        headers = http.client.HTTPMessage()
        for name, value in answer.headers.multi_items():
            headers.add_header(name, value)
        return Answer(answer.status_code, headers, answer.content)
