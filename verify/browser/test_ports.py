"""The paths of the live page that each port of a server does and does not serve."""

import json

import pytest

from conftest import models
from fleet import running
from wire import ask

BROWSER = {"accept": "text/html,application/xhtml+xml"}
CONTROLS = "/page/play?model=steady&version=1&callers=0"
OWN_PAGE = {"x-live-page": "1"}
DIGIT = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64}


def test_the_page_may_load_nothing_from_other_servers(serving):
    for address in (serving.http, serving.admin):
        answer = ask(address, "GET", "/", headers=BROWSER)
        assert answer.status == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert b"://" not in answer.body


def test_for_a_client_of_the_protocol_the_root_is_not_found(serving):
    answer = ask(serving.http, "GET", "/")
    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**OWN_PAGE, "host": "evil.example:8080"},
        {**OWN_PAGE, "x-forwarded-for": "10.0.0.1"},
    ],
)
def test_only_a_page_on_this_machine_may_set_a_load(serving, headers):
    answer = ask(serving.http, "POST", CONTROLS, headers=headers)
    assert (answer.status, answer.code) == (403, "forbidden")


def test_a_load_is_bounded(serving):
    for load in ("callers=257", "callers=1&slo_ms=0", "callers=-1", "slo_ms=5"):
        answer = ask(serving.http, "POST", f"/page/play?model=steady&version=1&{load}", headers=OWN_PAGE)
        assert (answer.status, answer.code) == (400, "bad_parameter"), load
    assert ask(serving.http, "POST", CONTROLS, headers=OWN_PAGE).status == 204


def test_the_admin_port_sets_no_load(serving):
    assert ask(serving.admin, "POST", CONTROLS, headers=OWN_PAGE).status == 404


def test_the_feed_reports_bad_parameters_and_unknown_models(serving):
    assert ask(serving.http, "GET", "/page/feed?batches=many").code == "bad_parameter"
    feed = ask(serving.http, "GET", "/page/feed?model=cats").json()
    assert (feed["trouble"], feed["shown"]) == ("no_such_model", None)


def test_a_response_describes_its_batch_only_on_request(serving):
    body = json.dumps({"inputs": [DIGIT]}).encode()
    path = "/v2/models/digits_wide/infer"
    assert ask(serving.http, "POST", path, body).headers.get("x-batch") is None
    batch = ask(serving.http, "POST", path, body, headers={"x-batch": "tell"}).headers["x-batch"]
    fields = dict(field.split("=") for field in batch.split(", "))
    assert list(fields) == ["rows", "padding", "release", "queue-ms", "wait-ms", "run-ms"]
    assert int(fields["rows"]) >= 1 and fields["release"] in ("full", "drained")
    assert float(fields["run-ms"]) > 0


@pytest.mark.parametrize(("place", "at_admin"), [("admin", True), ("off", False)])
def test_the_live_page_setting_decides_where_the_page_is_served(tmp_path, place, at_admin):
    with running(tmp_path, "redis", settings=("--live-page", place), write=echo_only) as fleet:
        shown = [ask(at, "GET", path, headers=BROWSER).status == 200
                 for at in (fleet.http, fleet.admin) for path in ("/", "/page/feed")]
        assert shown == [False, False, at_admin, at_admin]


def echo_only(folder) -> list[str]:
    names = models(folder)
    (folder / "digits_wide").unlink()
    return [name for name in names if name != "digits_wide"]
