"""HTTP/2 on the port of the REST API: the same answers as over HTTP/1.1, and clients that break rules."""

import json
import ssl
import subprocess
import threading

import httpx
import numpy as np
import pytest

import repository
from fleet import ANY_PORT, KINDS, Program, eventually, running
from frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    START,
    WINDOW_UPDATE,
    Http2,
    fields,
    frame,
    head,
    settings,
)
from wire import ask

INFER = "/v2/models/echo_fp32/infer"
BINARY = (("content-type", "application/octet-stream"), ("inference-header-content-length", "0"))
MOST_STREAMS = 1000
REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 7, 8, 11
MIB = 1 << 20


def request(*values: float) -> bytes:
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, len(values)], "data": values}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.fixture(scope="module", params=KINDS)
def echoes(request, tmp_path_factory):
    folder, settings = tmp_path_factory.mktemp("echoes"), ("--deadline", "60s")
    with running(
        folder, request.param, settings=settings, write=repository.write_echoes
    ) as fleet:
        yield fleet


@pytest.fixture(scope="module", params=KINDS)
def impatient(request, tmp_path_factory):
    """Servers that wait for clients for a short time only."""
    folder = tmp_path_factory.mktemp("impatient")
    settings = ("--stall-timeout", "1s", "--body-timeout", "1s")
    with running(
        folder, request.param, settings=settings, write=repository.write_echoes
    ) as fleet:
        yield fleet


def post(stream: int, path: str, body: bytes, *more: tuple[str, str]) -> bytes:
    """The frames of a request with a small body."""
    return frame(HEADERS, END_HEADERS, stream, head("POST", path, *more)) + frame(
        DATA, END_STREAM, stream, body
    )


def closed(fleet, reason: str) -> float:
    """The number of connections that the gateway has cut off for this reason."""
    name = "batchfleet_gateway_connections_closed_total"
    return fleet.metrics(name).get(f'{name}{{reason="{reason}"}}', 0)


def serves(fleet) -> bool:
    """Whether other clients are answered."""
    return ask(fleet.http, "POST", INFER, request(1)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "/v2", {}),
        ("HEAD", "/v2/health/ready", {}),
        ("GET", "//v2/models/echo_fp32/", {}),
        ("POST", INFER, {"content": request(1.5, -2)}),
        ("POST", INFER, {"content": b"{"}),
        ("POST", INFER, {"content": request(1), "headers": {"content-type": "text/xml"}}),
        ("POST", INFER, {"content": request(1), "headers": {"timeout": "soon"}}),
        ("POST", INFER, {"content": [request(1)[:9], request(1)[9:]]}),
        ("POST", "/v2/models/fixed/infer", {"content": request(1)}),
        ("POST", "/v2/models/none/infer", {"content": request(1)}),
        ("GET", INFER, {}),
        ("GET", "/nowhere", {}),
    ],
    ids=[
        *("server", "head", "slashes", "inference", "no json", "media type", "timeout", "pieces"),
        *("shape", "unknown model", "method", "nowhere"),
    ],
)
def test_answers_are_those_of_http_1(echoes, method, path, options):
    answers, content = [], options.get("content")
    for http2 in [False, True]:
        with httpx.Client(http1=not http2, http2=http2) as client:
            body = iter(content) if isinstance(content, list) else content
            answer = client.request(
                method, f"http://{echoes.http}{path}", **(options | {"content": body})
            )
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        kept = {name: text for name, text in answer.headers.items() if name != "date"}
        kept.pop("connection", None)
        answers.append((answer.status_code, kept, answer.content))
    assert answers[0] == answers[1]


def test_curl_speaks_http_2_with_prior_knowledge(echoes):
    answer = curl(f"http://{echoes.http}{INFER}", "--http2-prior-knowledge")
    assert answer == ("2", 200)


def curl(url: str, *more: str) -> tuple[str, int]:
    """The version of HTTP and the status of the answer to an inference request."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--output", "/dev/null"]
    command += ["--write-out", "%{http_version} %{http_code}", "--json", request(1).decode()]
    done = subprocess.run([*command, *more, url], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    version, status = done.stdout.split()
    return version, int(status)


def test_large_bodies_pass_and_too_large_ones_are_refused(echoes):
    values = np.arange(2_000_000, dtype="<f4").tobytes()
    with httpx.Client(http1=False, http2=True, timeout=60) as client:
        url = f"http://{echoes.http}{INFER}"
        answer = client.post(url, content=values, headers=dict(BINARY))
        assert answer.status_code == 200 and answer.content.endswith(values)
    with Http2(echoes.http) as connection:
        length = ("content-length", str(64 * MIB + 1))
        connection.send(frame(HEADERS, END_HEADERS, 1, head("POST", INFER, length)))
        _, answer = connection.until(DATA)
        assert b"too_large: " in answer
        connection.send(post(3, INFER, request(7)))
        assert b"[7.0]" in connection.until(DATA)[1]


def test_a_request_is_cancelled_when_its_stream_is_reset(echoes):
    def cancelled() -> float:
        counts = echoes.metrics("batchfleet_gateway_answered_total")
        return sum(count for name, count in counts.items() if 'outcome="cancelled"' in name)

    before = cancelled()

    def cancels() -> bool:
        """Resets a request that the server has read, and sends another one. The first one counts as
        cancelled, unless it is reset before it is accepted or after it is answered."""
        with Http2(echoes.http) as connection:
            slow = post(1, "/v2/models/slow/infer", request(1, 2, 3))
            connection.send(slow, frame(PING, 0, 0, bytes(8)))
            connection.until(PING, ACK)
            connection.send(frame(RST_STREAM, 0, 1, CANCEL.to_bytes(4)), post(3, INFER, request(7)))
            stream, answer = connection.until(DATA)
            assert stream == 1 or b"[7.0]" in answer
            return cancelled() > before

    eventually(cancels, "a request is cancelled")


def test_a_slow_body_is_refused_and_other_streams_go_on(impatient):
    with Http2(impatient.http) as connection:
        connection.send(frame(HEADERS, END_HEADERS, 1, head("POST", INFER)))
        connection.send(post(3, INFER, request(7)))
        answers = dict(connection.until(DATA) for _ in range(2))
        assert b"[7.0]" in answers[3] and b"body_timeout: " in answers[1]


@pytest.mark.parametrize(
    "head",
    [
        head("GET", "/v2", ("host", "one"), ("host", "two")).replace(b"\x0a:authority\x01a", b""),
        head("CONNECT", "/v2"),
        head("GET", "/v2", ("connection", "close")),
        head("GET", "/v2", ("transfer-encoding", "chunked")),
        head("GET", "/v2", ("Upper", "case")),
        head("GET", "v2"),
        fields((":method", "GET"), (":scheme", "http")),
    ],
    ids=["two hosts", "connect", "connection", "chunked", "upper case", "no slash", "no path"],
)
def test_a_malformed_request_fails_no_other(echoes, head):
    with Http2(echoes.http) as connection:
        connection.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, head))
        connection.send(post(3, INFER, request(7)))
        found = {}
        for kind, _, stream, payload in connection.frames():
            if kind in (DATA, RST_STREAM, GOAWAY):
                found[stream] = (kind, payload)
            if 3 in found or kind == GOAWAY:
                break
        assert GOAWAY in [kind for kind, _ in found.values()] or b"[7.0]" in found[3][1]
        assert b"version" not in found.get(1, (0, b""))[1], "the request was answered"
    assert serves(echoes)


def test_every_one_of_5000_streams_gets_its_own_answer(echoes):
    connections = [Http2(echoes.http) for _ in range(5)]

    def converse(number: int, wrong: list) -> None:
        with connections[number] as connection:
            streams = range(1, 2 * MOST_STREAMS, 2)
            value = lambda stream: float(number * 10_000 + stream)  # noqa: E731
            requests = (post(stream, INFER, request(value(stream))) for stream in streams)
            room = frame(WINDOW_UPDATE, 0, 0, MIB.to_bytes(4))
            sender = threading.Thread(target=lambda: connection.send(room, *requests))
            sender.start()
            answers, left = dict.fromkeys(streams, b""), len(streams)
            for kind, flags, stream, payload in connection.frames():
                if kind == DATA:
                    answers[stream] += payload
                if kind == RST_STREAM or kind == DATA and flags & END_STREAM:
                    left -= 1
                if not left:
                    break
            sender.join()
            for stream, answer in answers.items():
                if f"[{value(stream)}]".encode() not in answer:
                    wrong.append((stream, answer))

    wrong = []
    threads = [threading.Thread(target=converse, args=[number, wrong]) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]


def test_a_connection_has_a_limit_of_open_streams(echoes):
    with Http2(echoes.http) as connection:
        heads = (
            frame(HEADERS, END_HEADERS, stream, head("POST", INFER))
            for stream in range(1, 2 * MOST_STREAMS + 2, 2)
        )
        connection.send(*heads)
        stream, reason = connection.until(RST_STREAM)
        assert (stream, int.from_bytes(reason)) == (2 * MOST_STREAMS + 1, REFUSED_STREAM)
    assert serves(echoes)


def test_rapid_resets_end_the_connection(echoes):
    """CVE-2023-44487"""
    reset = CANCEL.to_bytes(4)
    with echoes.front.growth_within(64 * MIB), Http2(echoes.http) as connection:
        for batch in range(0, 100_000, 1000):
            streams = range(2 * batch + 1, 2 * (batch + 1000), 2)
            connection.send(
                *(
                    frame(HEADERS, END_HEADERS, stream, head("POST", INFER))
                    + frame(RST_STREAM, 0, stream, reset)
                    for stream in streams
                )
            )
        assert connection.ended() in (ENHANCE_YOUR_CALM, None)
    assert serves(echoes)


def test_endless_heads_end_the_connection(echoes):
    """CVE-2024-27316"""
    more = frame(CONTINUATION, 0, 1, fields(("a", "b" * 16_000)))
    with echoes.front.growth_within(32 * MIB), Http2(echoes.http) as connection:
        connection.send(frame(HEADERS, 0, 1, head("POST", INFER)))
        for _ in range(2000):
            connection.send(more)
        assert connection.ended() != 0
    assert serves(echoes)


@pytest.mark.parametrize(
    "flood",
    [frame(PING, 0, 0, bytes(8)), settings(initial_window_size=65_535), frame(SETTINGS, ACK, 0, b"")],
    ids=["ping", "settings", "acknowledgements"],
)
def test_a_flood_of_control_frames_takes_no_memory(echoes, flood):
    """CVE-2019-9512, CVE-2019-9515"""
    with echoes.front.growth_within(32 * MIB), Http2(echoes.http) as connection:
        connection.socket.settimeout(2)
        try:
            for _ in range(2000):
                connection.send(flood * 1000)
        except TimeoutError:
            pass  # the server reads no more frames before its answers are read
        assert serves(echoes)


@pytest.mark.parametrize("window", [0, 1])
def test_a_window_that_never_opens_ends_the_connection(impatient, window):
    before = closed(impatient, "slow_reader")
    start = START + settings(initial_window_size=window)
    with Http2(impatient.http, start) as connection:
        connection.send(post(1, INFER, request(1)))
        assert [payload for kind, _, _, payload in connection.frames() if kind == DATA] == (
            [b"{"] if window else []
        )
    eventually(lambda: closed(impatient, "slow_reader") == before + 1, "the end is counted")
    assert serves(impatient)


@pytest.mark.parametrize("kind", KINDS)
def test_requests_in_flight_are_answered_at_shutdown(kind, tmp_path):
    with running(tmp_path, kind, write=repository.write_echoes) as fleet:
        with Http2(fleet.http) as connection:
            connection.send(
                *(
                    post(stream, "/v2/models/slow/infer", request(stream, 2, 3))
                    for stream in range(1, 10, 2)
                )
            )

            def in_flight() -> bool:
                return sum(fleet.metrics("batchfleet_gateway_in_flight").values()) > 0

            eventually(in_flight, "the requests, which arrive together, are in flight")
            stopping = threading.Thread(target=fleet.programs.pop(0).stop)
            stopping.start()
            kinds, answered = [], {}
            for found, _, stream, payload in connection.frames():
                kinds.append(found)
                if found == DATA and payload:
                    answered[stream] = f"[{stream}.0,".encode() in payload
            stopping.join()
        assert GOAWAY in kinds
        assert answered == dict.fromkeys(range(1, 10, 2), True)
        fleet.left_over = lambda: {}  # there is no gateway left to ask


class Certificates:
    """An authority, and certificates for a server and for a client, made by openssl."""

    def __init__(self, folder):
        self.folder = folder
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        make += ["-nodes", "-days", "2"]
        names = ["-addext", "subjectAltName=IP:127.0.0.1"]
        self.run(*make, "-subj", "/CN=authority", "-out", "ca", "-keyout", "ca-key")
        for name in ["server", "client"]:
            signed = ["-CA", "ca", "-CAkey", "ca-key", "-addext", "basicConstraints=CA:FALSE"]
            files = ["-out", name, "-keyout", f"{name}-key"]
            self.run(*make, "-subj", f"/CN={name}", *names, *signed, *files)

    def run(self, *command: str) -> None:
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)


def test_tls_negotiates_http_2_and_a_certificate_names_its_client(tmp_path):
    files = Certificates(tmp_path)
    models = tmp_path / "models"
    models.mkdir()
    repository.write_echoes(models)
    settings = ("--listen", ANY_PORT, "--lame-duck", "0s", "--model-repository", str(models))
    tls = ("--tls-cert", files["server"], "--tls-key", files["server-key"])
    program = Program(
        tmp_path, "batchfleet", "serve", *settings, *tls, "--tls-client-ca", files["ca"]
    )
    try:
        url = f"https://{program.address('http')}{INFER}"
        trust = ["--cacert", files["ca"]]
        known = [*trust, "--cert", files["client"], "--key", files["client-key"]]
        eventually(lambda: curl(url, *known) == ("2", 200), "the model answers", program.tail)
        for versions, version in [(["--http2"], "2"), (["--http1.1"], "1.1")]:
            assert curl(url, *versions, *known) == (version, 200)
            assert curl(url, *versions, *trust) == (version, 401)
        context = ssl.create_default_context(cafile=files["ca"])
        context.load_cert_chain(files["client"], files["client-key"])
        with httpx.Client(http2=True, verify=context) as client:
            answer = client.post(url, content=request(1.5, -2))
            assert answer.http_version == "HTTP/2"
            assert answer.json()["outputs"][0]["data"] == [1.5, -2]
    finally:
        program.stop()
