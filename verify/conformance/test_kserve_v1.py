"""Version 1 of KServe's protocol: the KServe SDK's client, and what it cannot send."""

import asyncio
import json

import httpx
import pytest
from kserve import InferenceRESTClient, RESTConfig

import repository
import wire
from fleet import KINDS, eventually, running

V1 = ("--kserve-v1",)


@pytest.fixture(scope="module", params=KINDS)
def serving(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("v1")
    with running(folder, request.param, settings=V1, write=repository.write_echoes) as fleet:
        yield fleet


@pytest.fixture
def use(serving):
    """Runs a coroutine function of a client and the server's URL."""

    def run(program):
        async def connected():
            config = RESTConfig(protocol="v1", timeout=20, retries=0)
            async with InferenceRESTClient(config) as client:
                return await program(client, f"http://{serving.http}")

        return asyncio.run(connected())

    return run


def post(fleet, model: str, body, **options) -> wire.Answer:
    path = f"/v1/models/{model}:predict"
    return wire.ask(fleet.http, "POST", path, json.dumps(body).encode(), **options)


@pytest.mark.parametrize(
    ("model", "asked", "answered"),
    [
        ("echo_fp32", {"instances": [[1.5, -2], [3.25, 4]]}, {"predictions": [[1.5, -2], [3.25, 4]]}),
        ("echo_fp32", {"inputs": [[1.5, -2]]}, {"outputs": [[1.5, -2]]}),
        ("echo_bytes", {"instances": [["a", "é"]]}, {"predictions": [["a", "é"]]}),
        ("fixed", {"instances": [[1, 2, 3, 4]]}, {"predictions": [[1, 2, 3, 4]]}),
        ("unbatched", {"instances": [True, False]}, {"predictions": [True, False]}),
        ("versioned/versions/1", {"instances": [[7]]}, {"predictions": [[7]]}),
        (
            "two_inputs",
            {"instances": [{"INPUT0": [0.5], "INPUT1": [1]}, {"INPUT1": [2], "INPUT0": [1.5]}]},
            {"predictions": [{"OUTPUT0": [0.5], "OUTPUT1": [1]}, {"OUTPUT0": [1.5], "OUTPUT1": [2]}]},
        ),
        (
            "two_inputs",
            {"inputs": {"INPUT1": [[1], [2]], "INPUT0": [[0.5], [1.5]]}},
            {"outputs": {"OUTPUT0": [[0.5], [1.5]], "OUTPUT1": [[1], [2]]}},
        ),
    ],
)
def test_predicts_in_the_form_of_the_request(use, model, asked, answered):
    async def program(client, url):
        assert await client.infer(url, asked, model) == answered

    use(program)


def test_models_are_listed_and_ready(use, serving):
    async def program(client, url):
        assert await client.is_model_ready(url, "echo_fp32") is True
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await client.is_model_ready(url, "cats")

    use(program)
    assert wire.ask(serving.http, "GET", "/v1/models").json() == {"models": serving.models}
    answer = wire.ask(serving.http, "GET", "/v1/models/versioned/versions/1")
    assert answer.json() == {"name": "versioned", "ready": True}


@pytest.mark.parametrize(
    ("model", "body", "status", "code"),
    [
        ("cats", {"instances": [[1]]}, 404, "model_not_found"),
        ("echo_fp32", [], 400, "bad_request"),
        ("echo_fp32", {}, 400, "bad_inputs"),
        ("echo_fp32", {"instances": []}, 400, "bad_shape"),
        ("echo_fp32", {"instances": [[1], [1, 2]]}, 400, "bad_shape"),
        ("echo_fp32", {"instances": [["1"]]}, 400, "bad_data"),
        ("echo_fp32", {"instances": [{"INPUT1": [1]}]}, 400, "bad_inputs"),
        ("echo_fp32", {"instances": [[1]] * 65}, 400, "batch_too_large"),
        ("two_inputs", {"instances": [[1]]}, 400, "bad_inputs"),
        ("two_inputs", {"instances": [{"INPUT0": [1]}]}, 400, "bad_inputs"),
        ("echo_fp16", {"instances": [[1]]}, 400, "unsupported"),
    ],
)
def test_mistakes_are_refused_as_over_version_2(use, serving, model, body, status, code):
    answer = post(serving, model, body)
    assert (answer.status, answer.code) == (status, code), answer.body
    assert answer.json()["error"]

    async def program(client, url):
        with pytest.raises(httpx.HTTPStatusError, match=str(status)):
            await client.infer(url, body, model)

    if isinstance(body, dict):
        use(program)
    eventually(lambda: not serving.left_over(), "every request is done", serving.left_over)


def test_a_large_body_is_refused(serving):
    answer = post(serving, "echo_fp32", {"instances": [[1]]}, announce=(64 << 20) + 1)
    assert (answer.status, answer.code) == (413, "too_large")


def test_only_post_predicts(serving):
    answer = wire.ask(serving.http, "GET", "/v1/models/echo_fp32:predict")
    assert (answer.status, answer.code) == (405, "method_not_allowed")


def test_without_the_flag_there_is_no_such_path(tmp_path):
    with running(tmp_path, "standalone", write=repository.write_echoes) as fleet:
        for method, path in [("GET", "/v1/models"), ("POST", "/v1/models/echo_fp32:predict")]:
            answer = wire.ask(fleet.http, method, path)
            assert (answer.status, answer.code) == (404, "not_found")
