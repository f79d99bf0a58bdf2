"""The KServe SDK's clients for REST and gRPC."""

import asyncio

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferOutput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

VALUES = np.array([[1.5, -2.0, 3.25]], dtype=np.float32)


@pytest.fixture
def use(address):
    """Runs a coroutine function of a client and the server's URL."""

    def run(program):
        async def connected():
            config = RESTConfig(protocol="v2", timeout=20, retries=0)
            async with InferenceRESTClient(config) as client:
                return await program(client, f"http://{address}")

        return asyncio.run(connected())

    return run


def ask(values: np.ndarray, datatype: str, binary: bool, **options) -> InferRequest:
    tensor = InferInput("INPUT0", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return InferRequest(model_name="a name the server ignores", infer_inputs=[tensor], **options)


def output(answer) -> InferOutput:
    (one,) = answer.outputs
    assert one.name == "OUTPUT0"
    return one


def test_the_server_and_its_models_are_live_and_ready(use):
    async def program(client, url):
        assert await client.is_server_live(url) is True
        assert await client.is_server_ready(url) is True
        assert await client.is_model_ready(url, "echo_fp32") is True
        assert await client.is_model_ready(url, "cats") is False

    use(program)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infers_with_either_form_in_and_out(use, binary_in, binary_out):
    async def program(client, url):
        parameters = {"binary_data_output": binary_out}
        request = ask(VALUES, "FP32", binary_in, request_id="42", parameters=parameters)
        headers = {}
        answer = await client.infer(url, request, "echo_fp32", response_headers=headers)
        # The client discards the version in the answer.
        assert (answer.model_name, answer.id) == ("echo_fp32", "42")
        assert ("inference-header-content-length" in headers) == binary_out
        assert np.array_equal(output(answer).as_numpy(), VALUES)

    use(program)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", np.array([[True, False]])),
        ("UINT8", np.array([[0, 255]], dtype=np.uint8)),
        ("INT64", np.array([[-(2**63), 2**53 + 1]])),
        ("FP16", np.array([[0.5, -65504]], dtype=np.float16)),
        ("FP64", np.array([[1 / 3, -0.0]])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_datatypes_survive_in_binary(use, datatype, values):
    async def program(client, url):
        request = ask(values, datatype, True, parameters={"binary_data_output": True})
        answer = await client.infer(url, request, f"echo_{datatype.lower()}")
        assert np.array_equal(output(answer).as_numpy(), values)

    use(program)


def test_text_comes_back_as_text(use):
    async def program(client, url):
        values = np.array([[b"digit", "zażółć \u2603".encode()]], dtype=object)
        request = ask(values, "BYTES", True, parameters={"binary_data_output": True})
        answer = await client.infer(url, request, "echo_bytes")
        assert output(answer).data == ["digit", "zażółć \u2603"]

    use(program)


def test_an_output_may_be_requested(use):
    async def program(client, url):
        requested = RequestedOutput("OUTPUT0", {"binary_data": True})
        request = ask(VALUES, "FP32", True, request_outputs=[requested])
        answer = await client.infer(url, request, "echo_fp32")
        assert np.array_equal(output(answer).as_numpy(), VALUES)

    use(program)


def test_a_plain_dict_is_a_request_too(use):
    async def program(client, url):
        tensor = {"name": "INPUT0", "shape": [1, 3], "datatype": "FP32", "data": VALUES.tolist()}
        answer = await client.infer(url, {"inputs": [tensor]}, "echo_fp32")
        assert np.array_equal(output(answer).as_numpy(), VALUES)

    use(program)


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [("cats", 404, "cats"), ("fixed", 400, "[-1, 4]"), ("echo_int32", 400, "INT32")],
)
def test_errors_reach_the_caller_in_our_words(use, model, status, words):
    async def program(client, url):
        with pytest.raises(httpx.HTTPStatusError) as raised:
            await client.infer(url, ask(VALUES, "FP32", True), model)
        assert raised.value.response.status_code == status
        assert words in str(raised.value)

    use(program)


@pytest.fixture
def use_grpc(grpc_address):
    """Runs a coroutine function of a gRPC client."""

    def run(program):
        async def connected():
            async with InferenceGRPCClient(grpc_address, timeout=20, retries=0) as client:
                return await program(client)

        return asyncio.run(connected())

    return run


@pytest.mark.parametrize("raw", [True, False])
def test_infers_over_grpc_in_raw_and_typed_form(use_grpc, raw):
    async def program(client):
        assert await client.is_server_live() is True
        assert await client.is_server_ready() is True
        assert await client.is_model_ready("echo_fp32") is True
        tensor = InferInput("INPUT0", [1, 3], "FP32")
        tensor.set_data_from_numpy(VALUES, binary_data=raw)
        request = InferRequest("echo_fp32", [tensor], request_id="42")
        answer = await client.infer(request)
        assert (answer.model_name, answer.id) == ("echo_fp32", "42")
        assert np.array_equal(output(answer).as_numpy(), VALUES)

    use_grpc(program)


def test_errors_reach_the_caller_over_grpc_in_our_words(use_grpc):
    async def program(client):
        request = ask(VALUES, "FP32", True)
        with pytest.raises(grpc.RpcError) as raised:
            await client.infer(request)
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
        assert "model_not_found: " in raised.value.details()

    use_grpc(program)
