"""The answer to a caller is the answer to its request alone, whoever asks at the same time."""

import asyncio

import numpy as np
import onnxruntime
import pytest
import tritonclient.http.aio as triton

import mixing
import samples
from fleet import KINDS, running
from tensors import given
from wire import ask

CALLERS = 24


@pytest.fixture(scope="module", params=KINDS)
def mixing_fleet(request, tmp_path_factory):
    """Running servers of the models whose rows may influence each other."""
    folder = tmp_path_factory.mktemp(f"mixing-{request.param}")
    with running(folder, request.param, write=mixing.write, worker=("--linger", "5ms")) as fleet:
        yield fleet


async def answers(address: str, name: str, requests: list[mixing.Inputs]) -> list[list[np.ndarray]]:
    """Sends all requests at once, each on its own connection. Returns the answers in order."""
    async with triton.InferenceServerClient(address, conn_limit=len(requests)) as client:

        async def infer(inputs: mixing.Inputs) -> list[np.ndarray]:
            tensors = [given(values, name) for name, values in inputs.items()]
            answer = await client.infer(name, tensors)
            outputs = answer.get_response()["outputs"]
            return [answer.as_numpy(output["name"]) for output in outputs]

        return await asyncio.gather(*map(infer, requests))


def is_same(got: np.ndarray, expected: np.ndarray) -> bool:
    """Whether the arrays are equal but for the noise of kernels."""
    if got.dtype == object or not np.issubdtype(expected.dtype, np.floating):
        return samples.same(got, expected)
    scale = np.abs(expected).max(initial=0)
    noise = 1e-2 if expected.dtype == np.float16 else 1e-5
    return got.shape == expected.shape and bool(np.all(np.abs(got - expected) <= noise * scale))


@pytest.mark.parametrize("name", mixing.CASES)
def test_no_caller_changes_the_answer_of_another(mixing_fleet, name):
    case = mixing.CASES[name]
    session = onnxruntime.InferenceSession(case.model.SerializeToString())
    requests = [case.inputs(number) for number in range(CALLERS)]
    got = asyncio.run(answers(mixing_fleet.http, name, requests))
    for inputs, outputs in zip(requests, got, strict=True):
        for output, expected in zip(outputs, session.run(None, inputs), strict=True):
            assert is_same(output, expected), f"{output} instead of {expected} for {inputs}"
    batching = ask(mixing_fleet.http, "GET", f"/v2/models/{name}/batching").json()
    does_not_batch = any(note.startswith("each request runs in a batch of its own") for note in batching["notes"])
    assert does_not_batch != case.batches, batching["notes"]
    assert ("does not batch" in batching["why"]) != case.batches, batching["why"]
