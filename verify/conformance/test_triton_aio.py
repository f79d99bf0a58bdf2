"""tritonclient[http] on asyncio. Unlike the sync client, it sends a content type, and accepts
brotli without being able to decode it."""

import asyncio
import inspect

import numpy as np
import pytest
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

import repository
import samples
from tensors import given, wanted

VALUES = np.array([[1.5, -2.0, 3.25]], dtype=np.float32)


@pytest.fixture
def use(address):
    """Runs a coroutine function of a client."""

    def run(program):
        assert inspect.iscoroutinefunction(program)

        async def connected():
            async with triton.InferenceServerClient(address) as client:
                return await program(client)

        return asyncio.run(connected())

    return run


def test_the_server_and_its_models_describe_themselves(use):
    async def program(client):
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("echo_fp32")
        assert not await client.is_model_ready("cats")
        assert (await client.get_server_metadata())["name"] == "batchfleet"
        metadata = await client.get_model_metadata("digits_wide")
        assert metadata["inputs"][0]["shape"] == [-1, 64]
        assert (await client.get_model_config("fixed"))["max_batch_size"] == 4
        index = await client.get_model_repository_index()
        assert {"name": "fixed", "state": "READY"}.items() <= next(
            entry for entry in index if entry["name"] == "fixed"
        ).items()
        statistics = await client.get_inference_statistics("fixed")
        assert statistics["model_stats"][0]["name"] == "fixed"

    use(program)


@pytest.mark.parametrize("datatype", repository.DATATYPES)
def test_every_datatype_survives_in_binary(use, datatype):
    values = samples.row(datatype)

    async def program(client):
        answer = await client.infer(f"echo_{datatype.lower()}", [given(values)])
        assert samples.same(answer.as_numpy("OUTPUT0"), values)

    use(program)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_inputs_and_outputs_choose_their_form_apart(use, binary_in, binary_out):
    async def program(client):
        inputs, outputs = [given(VALUES, binary=binary_in)], [wanted(binary=binary_out)]
        answer = await client.infer("echo_fp32", inputs, outputs=outputs, request_id="7")
        assert answer.get_response()["id"] == "7"
        assert samples.same(answer.as_numpy("OUTPUT0"), VALUES)

    use(program)


def test_everything_a_request_may_carry_is_accepted(use):
    async def program(client):
        answer = await client.infer(
            "versioned",
            [given(np.zeros([3, 2], dtype=np.float32))],
            model_version="1",
            outputs=[wanted()],
            request_id="a",
            priority=2,
            timeout=10_000_000,
            parameters={"tenant": "a"},
            headers={"x-tenant": "a"},
            query_params={"a": 1},
            response_compression_algorithm="gzip",
        )
        assert answer.get_response()["model_version"] == "1"
        assert answer.as_numpy("OUTPUT0").shape == (3, 2)

    use(program)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request_is_answered_as_a_plain_one(use, algorithm):
    async def program(client):
        options = {"request_compression_algorithm": algorithm}
        answer = await client.infer("echo_fp32", [given(VALUES)], **options)
        assert samples.same(answer.as_numpy("OUTPUT0"), VALUES)

    use(program)


@pytest.mark.parametrize(
    ("model", "values", "options", "statuses", "words"),
    [
        ("cats", VALUES, {}, ("404",), "cats"),
        ("fixed", VALUES, {}, ("400",), "[-1, 4]"),
        ("echo_fp32", VALUES.astype(np.int64), {}, ("400",), "INT64"),
        ("slow", VALUES, {"timeout": 50_000}, ("503", "504"), "deadline"),
        ("echo_fp32", np.zeros([1, 1 << 24], np.float32), {}, ("413",), "too_large"),
    ],
    ids=["unknown-model", "shape", "datatype", "timeout", "too-large"],
)
def test_errors_reach_the_caller_in_our_words(use, model, values, options, statuses, words):
    async def program(client):
        with pytest.raises(InferenceServerException) as raised:
            await client.infer(model, [given(values)], **options)
        assert raised.value.status() in statuses
        assert words in raised.value.message()

    use(program)
