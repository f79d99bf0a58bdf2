"""Many requests at the same time."""

import asyncio

import numpy as np
import tritonclient.http.aio as triton

from tensors import given


def infer_all(
    address: str,
    model: str,
    requests: list[np.ndarray],
    input_name: str = "INPUT0",
    output_name: str = "OUTPUT0",
    request_id: str = "",
) -> list[np.ndarray]:
    """Sends all requests at once, each on its own connection. Returns the answers in order."""

    async def program() -> list[np.ndarray]:
        limit = len(requests)
        async with triton.InferenceServerClient(address, conn_limit=limit) as client:

            async def infer(values: np.ndarray) -> np.ndarray:
                inputs = [given(values, input_name)]
                answer = await client.infer(model, inputs, request_id=request_id)
                assert answer.get_response().get("id", "") == request_id
                return answer.as_numpy(output_name)

            return await asyncio.gather(*map(infer, requests))

    return asyncio.run(program())
