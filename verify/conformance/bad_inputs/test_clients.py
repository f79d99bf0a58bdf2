"""B63 to B67: checks that need more than one request."""

import contextlib

import pytest

from fleet import eventually
from wire import Connection, ask, infer, one_input

from .checks import check_error, check_still_good
from .clients import ALONE, LOW, NARROWED, RATED
from .raw import head

ROW = one_input([1.0])


def ask_as(guarded, key: str, **headers: str):
    return infer(guarded.http, "echo_fp32", ROW, headers={"x-api-key": key, **headers})


@pytest.mark.parametrize("path", ["", "/ready", "/config", "/stats", "/versions/1"])
def test_b64_a_model_that_a_key_may_not_use_is_answered_like_an_unknown_model(guarded, path):
    hidden = ask(guarded.http, "GET", f"/v2/models/fixed{path}", headers=NARROWED)
    absent = ask(guarded.http, "GET", f"/v2/models/absent{path}", headers=NARROWED)
    check_error(hidden, 404, "model_not_found")
    assert hidden.body == absent.body.replace(b"absent", b"fixed")


def test_b64_lists_contain_only_the_models_that_a_key_may_use(guarded):
    index = ask(guarded.http, "POST", "/v2/repository/index", headers=NARROWED)
    assert {model["name"] for model in index.json()} == {"echo_fp32"}
    stats = ask(guarded.http, "GET", "/v2/models/stats", headers=NARROWED)
    assert {model["name"] for model in stats.json()["model_stats"]} == {"echo_fp32"}


def test_b65_a_client_over_its_rate_gets_429_with_retry_after(guarded):
    assert ask_as(guarded, RATED).status == 200
    for _ in range(20):
        answer = ask_as(guarded, RATED)
        check_error(answer, 429, "quota")
        assert 60 < int(answer.headers["retry-after"]) <= 100
    check_still_good(guarded)


def test_b65_a_client_over_its_requests_in_flight_gets_429_with_retry_after(guarded):
    with Connection(guarded.http) as waiting:
        waiting.send(head("content-length: 1000", key=ALONE))
        held = lambda: sum(guarded.metrics("batchfleet_gateway_body_bytes").values())  # noqa: E731
        eventually(lambda: held() == 1000, "the gateway waits for the body", seconds=5)
        answer = ask_as(guarded, ALONE)
        check_error(answer, 429, "concurrency")
        assert int(answer.headers["retry-after"]) >= 1
        check_error(waiting.answer(), 408, "body_timeout")
    assert ask_as(guarded, ALONE).status == 200
    check_still_good(guarded)


@pytest.mark.parametrize("guarded", ["redis"], indirect=True)  # where the test sees classes
def test_b66_a_class_that_is_not_allowed_is_replaced_by_the_highest_allowed(guarded):
    def queued() -> dict[str, int]:
        """The number of jobs that each class has ever had."""
        streams = guarded.redis.client.scan_iter("bf:*echo_fp32*:q:*", _type="stream")
        info = guarded.redis.client.xinfo_stream
        return {stream.rsplit(":", 1)[1]: info(stream)["entries-added"] for stream in streams}

    before = queued()
    assert ask_as(guarded, LOW, **{"x-priority": "critical"}).status == 200
    after = queued()
    grown = {name for name, count in after.items() if count != before.get(name, 0)}
    assert grown == {"sheddable"}


@pytest.mark.parametrize("guarded", ["redis"], indirect=True)  # where gateways start fast
@pytest.mark.parametrize(
    ("settings", "status"), [([], 429), (["--trusted-proxies", "127.0.0.0/8"], 200)]
)
def test_b67_only_a_trusted_proxy_may_give_the_clients_address(guarded, settings, status):
    with front(guarded, "--client-rate", "0.01", *settings) as address:
        for at, expected in [("1.2.3.4", 200), ("5.6.7.8", status), ("1.2.3.4", 429)]:
            answer = infer(address, "echo_fp32", ROW, headers={"x-forwarded-for": at})
            assert answer.status == expected, answer.body


@contextlib.contextmanager
def front(fleet, *settings: str):
    """Another gateway, with other settings. Yields its address."""
    program = fleet.start_front(*settings)
    address = program.address("http")
    ready = lambda: ask(address, "GET", "/v2/models/echo_fp32/ready").status == 200  # noqa: E731
    eventually(ready, "the model is ready", program.tail)
    yield address
    fleet.programs.remove(program)
    program.stop()
