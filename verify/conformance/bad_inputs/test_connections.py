"""Connections that wait, break off, or send many requests at once."""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fleet import eventually
from wire import Answer, Connection

from .bodies import BOMBS
from .case import encode, values
from .checks import UNPARSED, check_answer, check_error, check_still_good
from .raw import CHUNKED, GOOD, INFER, head, post

UNKNOWN = INFER.replace("echo_fp32", "cats")


def test_b13_a_client_that_expects_100_continue_gets_it(guarded):
    with Connection(guarded.http) as connection:
        connection.send(head(f"content-length: {len(GOOD)}", "expect: 100-continue"))
        assert connection.answer().status == 100
        connection.send(GOOD)
        assert connection.answer().status == 200


HEAD_TIME, BODY_TIME = 5, 1  # seconds

# The bytes sent at once, the bytes sent one by one, the expected code, and the expected time.
SLOW = {
    "half a head": (head()[:-10], b"", UNPARSED, HEAD_TIME),
    "a trickling head": (b"", head("a: " + "b" * 1000), UNPARSED, HEAD_TIME),
    "no body": (head("content-length: 9"), b"", "body_timeout", BODY_TIME),
    "half a body": (post()[:-10], b"", "body_timeout", BODY_TIME),
    "a trickling body": (head("content-length: 1000"), bytes(1000), "body_timeout", BODY_TIME),
    "no chunk": (head(CHUNKED), b"", "body_timeout", BODY_TIME),
    "an endless chunk": (
        head(CHUNKED) + b"f" * 16 + b"\r\n",
        bytes(1000),
        "body_timeout",
        BODY_TIME,
    ),
}


def trickle(address: str, at_once: bytes, piecemeal: bytes) -> tuple[Answer, float]:
    """Sends `piecemeal` one byte every 0.1 s. Returns the answer, and its time in seconds."""
    started = time.monotonic()
    with Connection(address) as connection:
        connection.send(at_once)
        for byte in piecemeal:
            if connection.has_something(within=0.1):
                break
            connection.send(bytes([byte]))
        answer = connection.answer()
        took = time.monotonic() - started
        assert connection.rest() == b""
    return answer, took


def test_b14_slow_clients_are_cut_off_in_time(guarded):
    with guarded.front.growth_within(2 * guarded.max_body), ThreadPoolExecutor(len(SLOW)) as pool:
        slow = {
            name: pool.submit(trickle, guarded.http, at_once, piecemeal)
            for name, (at_once, piecemeal, _, _) in SLOW.items()
        }
    for name, (_, _, code, seconds) in SLOW.items():
        answer, took = slow[name].result()
        check_answer(answer, 408, code)
        assert 0.8 * seconds < took < seconds + 2, (name, took)  # The server's clock is coarse.
    check_still_good(guarded)


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_b15_a_body_that_breaks_off_is_counted_and_nothing_is_inferred(guarded, end):
    def count(name: str, *words: str) -> float:
        samples = guarded.metrics(f"batchfleet_gateway_{name}").items()
        return sum(value for sample, value in samples if all(word in sample for word in words))

    def cancelled() -> float:
        return count("refused_total", '"echo_fp32"', '"cancelled"')

    before, accepted = cancelled(), count("accepted_total", '"echo_fp32"')
    with Connection(guarded.http) as connection:
        connection.send(post()[:-1])
        eventually(lambda: count("body_bytes") > 0, "the gateway waits for the body", seconds=5)
        if end == "reset":
            connection.reset()
        else:
            connection.socket.shutdown(socket.SHUT_WR)
            check_error(connection.answer(), 400, "cancelled")
            assert connection.rest() == b""
    eventually(lambda: cancelled() == before + 1, "the request is counted as cancelled", seconds=5)
    assert count("accepted_total", '"echo_fp32"') == accepted
    check_still_good(guarded)


def test_b16_a_hundred_pipelined_requests_get_their_own_answers_in_order(guarded):
    bodies = [encode(values(n, -n)) for n in range(100)]
    with guarded.front.growth_within(2 * guarded.max_body), Connection(guarded.http) as connection:
        connection.send(b"".join(post(body=body) for body in bodies))
        for n in range(100):
            assert connection.answer().outputs() == {"OUTPUT0": [n, -n]}
    check_still_good(guarded)


@pytest.mark.parametrize("size", [100, 64 << 10, (64 << 10) + 1, 1 << 20])
def test_b16_after_a_refusal_a_connection_serves_or_closes(guarded, size):
    with Connection(guarded.http) as connection:
        connection.send(post(line=UNKNOWN, body=bytes(size)) + post())
        check_error(connection.answer(), 404, "model_not_found")
        closes = ConnectionError if size > 64 << 10 else ()
        with contextlib.suppress(closes):
            assert connection.answer().status == 200
    check_still_good(guarded)


@pytest.mark.parametrize("encoding", BOMBS)
def test_b19_thirty_bombs_at_once_take_no_more_memory_than_two_bodies(guarded, encoding):
    bomb = post(f"content-encoding: {encoding}", body=BOMBS[encoding])

    def drop(_) -> Answer:
        with Connection(guarded.http) as connection:
            connection.send(bomb)
            return connection.answer()

    with guarded.front.growth_within(2 * guarded.max_body), ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(drop, range(30)))
    for answer in answers:
        check_error(answer, 413, "too_large")
    check_still_good(guarded)
