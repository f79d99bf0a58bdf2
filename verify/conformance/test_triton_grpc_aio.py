"""tritonclient[grpc] on asyncio."""

import asyncio
import inspect

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

import repository
import samples
from test_triton_grpc import VALUES, given


@pytest.fixture
def use(grpc_address):
    """Runs a coroutine function of a client."""

    def run(program):
        assert inspect.iscoroutinefunction(program)

        async def connected():
            async with triton.InferenceServerClient(grpc_address) as client:
                return await program(client)

        return asyncio.run(connected())

    return run


def test_the_server_and_its_models_describe_themselves(use):
    async def program(client):
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready("echo_fp32")
        assert (await client.get_model_config("fixed")).config.max_batch_size == 4
        assert (await client.get_inference_statistics("fixed")).model_stats[0].name == "fixed"

    use(program)


@pytest.mark.parametrize("datatype", repository.DATATYPES)
def test_every_datatype_survives(use, datatype):
    values = samples.row(datatype)

    async def program(client):
        answer = await client.infer(f"echo_{datatype.lower()}", [given(values)], request_id="7")
        assert answer.get_response().id == "7"
        assert samples.same(answer.as_numpy("OUTPUT0"), values)

    use(program)


def test_callers_at_the_same_time_get_their_own_answers(use):
    async def program(client):
        rows = [np.full([1, 3], number, dtype=np.float32) for number in range(500)]
        answers = await asyncio.gather(*(client.infer("echo_fp32", [given(row)]) for row in rows))
        for row, answer in zip(rows, answers, strict=True):
            assert samples.same(answer.as_numpy("OUTPUT0"), row)

    use(program)


def test_a_stream_answers_each_request(use):
    async def program(client):
        async def requests():
            for number in range(20):
                values = np.full([1, 3], number, dtype=np.float32)
                yield {
                    "model_name": "echo_fp32",
                    "inputs": [given(values)],
                    "request_id": str(number),
                }

        found = {}
        async for result, error in client.stream_infer(requests()):
            assert error is None
            found[int(result.get_response().id)] = result.as_numpy("OUTPUT0")[0, 0]
        assert found == {number: number for number in range(20)}

    use(program)


def test_a_cancelled_call_ends(use):
    async def program(client):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.infer("slow", [given(VALUES)]), 0.05)

    use(program)


def test_errors_reach_the_caller_in_our_words(use):
    async def program(client):
        with pytest.raises(InferenceServerException) as raised:
            await client.infer("cats", [given(VALUES)])
        assert raised.value.status() == "StatusCode.NOT_FOUND"
        assert "model_not_found: " in raised.value.message()

    use(program)
