"""Servers answer any invalid request with the right status and a sentence, use little memory,
and leave nothing behind."""

import pytest

import repository
from fleet import eventually
from wire import ask, infer, one_input

from . import binary, bodies, clients, framing, outputs, paths, syntax, tensors
from .checks import check_answer, check_error, check_still_good
from .over_http2 import Http2Client, has_http2_form

CASES = [
    *paths.CASES,
    *bodies.CASES,
    *syntax.CASES,
    *tensors.CASES,
    *binary.CASES,
    *outputs.CASES,
]
GUARDED_CASES = [*framing.CASES, *bodies.RAW, *clients.CASES]
OVER_HTTP2 = [case for case in CASES if has_http2_form(case)]
FAMILIES = sorted({case.name[:3] for case in CASES})
PROMISES = [case for case in CASES if case.name[:3] in ("B25", "B39", "B40", "B52")]
LARGEST_GROWTH = 1 << 30  # of address space, in bytes; the sizes in the cases are far larger


def check(fleet, case) -> None:
    with fleet.front.growth_within(2 * fleet.max_body):
        answer = case.ask(fleet.http)
    check_answer(answer, case.status, case.code)
    assert case.holds(answer), (answer.headers.items(), answer.body[:500])
    check_still_good(fleet)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_bad_input_gets_its_answer_and_leaves_nothing(fleet, case):
    check(fleet, case)


@pytest.fixture(scope="session")
def http2_client(fleet):
    with Http2Client(fleet.http) as client:
        yield client


@pytest.mark.parametrize("case", OVER_HTTP2, ids=[case.name for case in OVER_HTTP2])
def test_a_bad_input_over_http_2_gets_the_same_answer(http2_client, case):
    answer = http2_client.ask(case)
    check_answer(answer, case.status, case.code)
    assert case.holds(answer), (answer.headers.items(), answer.body[:500])


@pytest.mark.parametrize("case", GUARDED_CASES, ids=[case.name for case in GUARDED_CASES])
def test_small_limits_and_keys_hold(guarded, case):
    check(guarded, case)


@pytest.mark.parametrize("family", FAMILIES)
def test_takes_no_more_memory_than_two_small_bodies(guarded, family):
    for case in CASES:
        if case.name.startswith(family):
            with guarded.front.growth_within(2 * guarded.max_body):
                case.ask(guarded.http)
    check_still_good(guarded)


@pytest.mark.parametrize("case", PROMISES, ids=[case.name for case in PROMISES])
def test_sizes_are_not_allocated_before_their_bytes_arrive(fleet, case):
    before = fleet.front.memory("VmPeak")
    case.ask(fleet.http)
    assert fleet.front.memory("VmPeak") - before < LARGEST_GROWTH


@pytest.mark.parametrize("fleet", ["redis"], indirect=True)  # where a worker can die alone
def test_b12_a_model_whose_workers_are_gone_is_known_but_unavailable(fleet, tmp_path):
    models = tmp_path / "more"
    models.mkdir()
    repository.echo(models / "short_lived", [("FP32", "-1")])
    worker = fleet.serve(models)
    fleet.wait_for("short_lived")
    fleet.programs.remove(worker)
    worker.kill()

    def refusal():
        answer = infer(fleet.http, "short_lived", one_input([1.0], parameters={"timeout": 500_000}))
        return answer if answer.code not in ("deadline", "queue_wait") else None

    check_error(eventually(refusal, "the gateway notices that the worker is gone"), 503, "no_workers")
    check_error(ask(fleet.http, "GET", "/v2/models/short_lived/ready"), 503, "no_workers")
    assert ask(fleet.http, "GET", "/v2/models/short_lived").status == 200


def test_b31_an_id_never_breaks_a_line_of_the_log(fleet):
    for case in syntax.IDS:
        case.ask(fleet.http)
    for program in fleet.programs:
        assert program.records(), "`records` raises unless every line is one JSON object"
