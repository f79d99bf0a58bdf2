"""Whatever a client sends: the right status, a sentence, and nothing left behind."""

import pytest

import repository
from fleet import eventually
from wire import ask, infer, one_input

from . import binary, outputs, paths, syntax, tensors

CASES = [*paths.CASES, *syntax.CASES, *tensors.CASES, *binary.CASES, *outputs.CASES]
PROMISES = [case for case in CASES if case.name[:3] in ("B25", "B39", "B40", "B52")]
LARGEST_GROWTH = 1 << 30  # of address space, in bytes; the cases promise far more


def check_still_good(fleet) -> None:
    """A new connection gets its answer, and nothing of any request is left."""
    answer = infer(fleet.http, "echo_fp32", one_input([4.0, 5.5]))
    assert (answer.status, answer.outputs()) == (200, {"OUTPUT0": [4.0, 5.5]})
    assert fleet.left_over() == {}


def check_error(answer, status: int, code: str | None) -> None:
    assert answer.status == status, answer.body[:500]
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    name, text = answer.json()["error"].split(": ", 1)
    assert answer.headers.get_all("x-error-code") == [name]
    assert code in (None, name), answer.body[:500]
    assert 5 < len(text) < 500


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_gets_what_is_promised_and_leaves_nothing(fleet, case):
    answer = case.ask(fleet.http)
    if case.status == 200:
        assert answer.status == 200, answer.body[:500]
    else:
        check_error(answer, case.status, case.code)
    assert case.holds(answer), (answer.headers.items(), answer.body[:500])
    check_still_good(fleet)


@pytest.mark.parametrize("case", PROMISES, ids=[case.name for case in PROMISES])
def test_promises_take_no_memory(fleet, case):
    before = fleet.front.virtual_peak()
    case.ask(fleet.http)
    assert fleet.front.virtual_peak() - before < LARGEST_GROWTH


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

    check_error(eventually(refusal, "the death is noticed"), 503, "no_workers")
    check_error(ask(fleet.http, "GET", "/v2/models/short_lived/ready"), 503, "no_workers")
    assert ask(fleet.http, "GET", "/v2/models/short_lived").status == 200


def test_b31_an_id_never_breaks_a_line_of_the_log(fleet):
    for case in syntax.IDS:
        case.ask(fleet.http)
    for program in fleet.programs:
        assert program.records(), "every line is one JSON object, or this raises"
