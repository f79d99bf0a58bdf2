"""Many callers at once."""

import asyncio

import numpy as np
import tritonclient.http.aio as triton
from tritonclient.utils import np_to_triton_dtype


def infer_all(
    address: str,
    model: str,
    requests: list[np.ndarray],
    input_name: str = "INPUT0",
    output_name: str = "OUTPUT0",
    request_id: str = "",
) -> list[np.ndarray]:
    """Sends each request on a connection of its own, all at the same time; answers in order."""

    async def program() -> list[np.ndarray]:
        limit = len(requests)
        async with triton.InferenceServerClient(address, conn_limit=limit) as client:

            async def infer(values: np.ndarray) -> np.ndarray:
                datatype = np_to_triton_dtype(values.dtype)
                tensor = triton.InferInput(input_name, list(values.shape), datatype)
                tensor.set_data_from_numpy(values)
                answer = await client.infer(model, [tensor], request_id=request_id)
                assert answer.get_response().get("id", "") == request_id
                return answer.as_numpy(output_name)

            return await asyncio.gather(*map(infer, requests))

    return asyncio.run(program())
