"""Callers of a recurrent model share batches, although its state has the rows in its second
dimension and its sampling rate has none. Each gets the answer of the model alone."""

import asyncio
import json

import numpy as np
import onnxruntime
import pytest
import tritonclient.http.aio as triton

import recurrent
from fleet import KINDS, running
from tensors import given
from wire import ask

CALLERS = 32
STEPS = 8
RATES = [8000, 16000]


@pytest.fixture(scope="module", params=KINDS)
def voice(request, tmp_path_factory):
    """Running servers with the recurrent model only."""
    folder = tmp_path_factory.mktemp(f"voice_{request.param}")
    with running(folder, request.param, write=recurrent.write) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def alone():
    """The model in this process."""
    session = onnxruntime.InferenceSession(
        recurrent.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def run(signal, state, rate):
        names = {"signal": signal, "state": state, "rate": np.array(rate, dtype=np.int64)}
        return session.run(["score", "next_state"], names)

    return run


async def infer(client, signal, state, rate):
    rate = np.array(rate, dtype=np.int64)
    inputs = [given(signal, "signal"), given(state, "state"), given(rate, "rate")]
    answer = await client.infer(recurrent.NAME, inputs)
    return answer.as_numpy("score"), answer.as_numpy("next_state")


def check(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_each_caller_keeps_its_own_state(voice, alone):
    async def call(client, number: int):
        random = np.random.default_rng(number)
        rows, rate = 1 + number % 3, RATES[number // 3 % 2]
        state = np.zeros((2, rows, recurrent.HIDDEN), dtype=np.float32)
        for _ in range(STEPS):
            signal = random.standard_normal((rows, recurrent.WINDOW)).astype(np.float32)
            signal *= 10.0 ** random.integers(-2, 3)
            got = await infer(client, signal, state, rate)
            check(got, alone(signal, state, rate))
            state = got[1]

    async def program():
        async with triton.InferenceServerClient(voice.http, conn_limit=CALLERS) as client:
            await asyncio.gather(*(call(client, number) for number in range(CALLERS)))

    asyncio.run(program())
    [stats] = json.loads(ask(voice.http, "GET", "/v2/models/stats").body)["model_stats"]
    requests = stats["inference_stats"]["success"]["count"]
    assert stats["execution_count"] < requests / 2, f"few requests shared batches: {stats}"


def test_a_large_request_among_small_ones_is_answered_as_a_whole(voice, alone):
    async def program():
        random = np.random.default_rng(1)

        def rows(count: int):
            signal = random.standard_normal((count, recurrent.WINDOW)).astype(np.float32)
            state = random.standard_normal((2, count, recurrent.HIDDEN)).astype(np.float32)
            return signal, state, RATES[1]

        requests = [rows(recurrent.MAX_BATCH), *(rows(1 + n % 2) for n in range(40))]
        async with triton.InferenceServerClient(voice.http, conn_limit=CALLERS) as client:
            answers = await asyncio.gather(*(infer(client, *request) for request in requests))
        for request, answer in zip(requests, answers, strict=True):
            check(answer, alone(*request))

    asyncio.run(program())


def test_inputs_with_different_numbers_of_rows_are_refused(voice):
    async def program():
        signal = np.zeros((2, recurrent.WINDOW), dtype=np.float32)
        state = np.zeros((2, 3, recurrent.HIDDEN), dtype=np.float32)
        async with triton.InferenceServerClient(voice.http) as client:
            await infer(client, signal, state, RATES[0])

    with pytest.raises(triton.InferenceServerException, match='"signal" has 2 rows, "state" has 3'):
        asyncio.run(program())
