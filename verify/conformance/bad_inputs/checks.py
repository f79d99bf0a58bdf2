"""The checks of every answer, and of the servers after every case."""

from wire import infer, one_input

UNPARSED = "refused by the HTTP parser"  # instead of one of its codes
PARSER_CODES = {"bad_http", "head_too_large", "head_timeout"}


def check_answer(answer, status: int, code: str | None) -> None:
    assert answer.status == status, answer.body[:500]
    if code == UNPARSED:
        check_error(answer, status, None)
        assert answer.headers["x-error-code"] in PARSER_CODES
    elif status != 200:
        check_error(answer, status, code)


def check_error(answer, status: int, code: str | None) -> None:
    assert answer.status == status, answer.body[:500]
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    name, text = answer.json()["error"].split(": ", 1)
    assert answer.headers.get_all("x-error-code") == [name]
    assert code in (None, name), answer.body[:500]
    assert 5 < len(text) < 500


def check_still_good(fleet) -> None:
    """Checks that a new connection is served, and that no request is unfinished."""
    answer = infer(fleet.http, "echo_fp32", one_input([4.0, 5.5]))
    assert (answer.status, answer.outputs()) == (200, {"OUTPUT0": [4.0, 5.5]})
    assert fleet.left_over() == {}
