"""The connections of gRPC clients: moved at their age, drained at shutdown, and bounded."""

import threading
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

import repository
import samples
from fleet import KINDS, eventually, running
from frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    EVERY_STREAM,
    GOAWAY,
    HEADERS,
    WINDOW_UPDATE,
    Http2,
    frame,
    head,
)
from test_triton_grpc import VALUES, given



@pytest.fixture(params=KINDS)
def moving(request, tmp_path):
    """Servers that move clients often, and close idle connections soon."""
    settings = ("--grpc-max-connection-age", "1s", "--keep-alive", "2s")
    with running(
        tmp_path, request.param, settings=settings, write=repository.write_echoes
    ) as fleet:
        yield fleet


def connections(fleet) -> float:
    return fleet.metrics("batchfleet_gateway_connections")["batchfleet_gateway_connections"]


def test_clients_that_are_moved_lose_no_call(moving):
    """Each client is told several times to open another connection."""
    failed, answered, end = [], [], time.monotonic() + 5

    def ask(number: int) -> None:
        with triton.InferenceServerClient(moving.grpc) as client:
            values = np.full([1, 3], number, dtype=np.float32)
            while time.monotonic() < end:
                try:
                    answer = client.infer("echo_fp32", [given(values)]).as_numpy("OUTPUT0")
                    answered.append(samples.same(answer, values))
                except Exception as error:  # every kind counts
                    failed.append(error)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[:3]
    assert len(answered) > 100 and all(answered)


def head_of_call(path: str) -> bytes:
    """The head of a call."""
    return head("POST", path, ("content-type", "application/grpc"), ("te", "trailers"))


def test_a_stream_that_comes_too_late_fails_no_other_call(moving):
    """A client may answer the ping between the two farewells before it sends a stream that it opened
    earlier. The window update of that stream must not end the connection."""
    call = head_of_call("/inference.GRPCInferenceService/ServerLive")
    with Http2(moving.grpc) as connection:

        def last_stream() -> int:
            _, farewell = connection.until(GOAWAY)
            assert farewell[4:8] == bytes(4), "NO_ERROR"
            return int.from_bytes(farewell[:4])

        connection.send(frame(HEADERS, END_HEADERS, 1, call))
        assert last_stream() == EVERY_STREAM
        late = frame(HEADERS, END_HEADERS, 3, call) + frame(WINDOW_UPDATE, 0, 3, (9).to_bytes(4))
        connection.answer_ping(late)
        assert last_stream() == 1
        connection.send(frame(DATA, END_STREAM, 1, bytes(5)))
        assert connection.until(DATA) == (1, bytes([0, 0, 0, 0, 2, 8, 1])), "the server is live"
        assert connection.until(HEADERS, END_STREAM)[0] == 1, "the trailers"


def test_an_idle_connection_is_closed_with_a_farewell(moving):
    with Http2(moving.grpc) as connection:
        eventually(lambda: connections(moving) == 1, "the connection is open")
        assert GOAWAY in (kind for kind, *_ in connection.frames())
    eventually(lambda: connections(moving) == 0, "the connection is gone", seconds=5)


def test_another_protocol_is_closed_at_once(moving):
    with Http2(moving.grpc, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n") as connection:
        list(connection.frames())  # until the server closes the connection
    eventually(lambda: connections(moving) == 0, "the connection is gone", seconds=5)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_in_flight_are_answered_at_shutdown(kind, tmp_path):
    with running(tmp_path, kind, write=repository.write_echoes) as fleet:
        answers = []
        with triton.InferenceServerClient(fleet.grpc) as client:
            for _ in range(5):
                client.async_infer(
                    "slow",
                    [given(VALUES)],
                    callback=lambda result, error: answers.append((result, error)),
                )

            def in_flight() -> bool:
                return sum(fleet.metrics("batchfleet_gateway_in_flight").values()) == 5

            eventually(in_flight, "all calls are in flight")
            fleet.programs.pop(0).stop()
            eventually(lambda: len(answers) == 5, "every call is answered", seconds=5)
        for result, error in answers:
            assert error is None, error
            assert samples.same(result.as_numpy("OUTPUT0"), VALUES)
        fleet.left_over = lambda: {}  # there is no gateway left to ask


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_ends_after_its_answers_at_shutdown(kind, tmp_path):
    with running(tmp_path, kind, write=repository.write_echoes) as fleet:
        answers = []
        with triton.InferenceServerClient(fleet.grpc) as client:
            client.start_stream(callback=lambda result, error: answers.append((result, error)))
            client.async_stream_infer("slow", [given(VALUES)], request_id="last")

            def in_flight() -> bool:
                return sum(fleet.metrics("batchfleet_gateway_in_flight").values()) == 1

            eventually(in_flight, "the request is in flight")
            fleet.programs.pop(0).stop()
            eventually(lambda: len(answers) == 2, "the answer and the end", seconds=5)
        (result, error), (_, end) = answers
        assert error is None and result.get_response().id == "last"
        assert end.status() == f"StatusCode.{grpc.StatusCode.UNAVAILABLE.name}"
        assert "draining: " in end.message()
        fleet.left_over = lambda: {}  # there is no gateway left to ask
