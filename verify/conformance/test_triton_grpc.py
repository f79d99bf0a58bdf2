"""tritonclient[grpc]: calls, callbacks and streams."""

import queue
from functools import partial

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import repository
import samples

VALUES = np.array([[1.5, -2.0, 3.25]], dtype=np.float32)
MOST_WAIT = 20  # seconds
# The numbers of the reflection protocol: a client lists the services.
LIST_SERVICES = b"\x3a\x01*"


@pytest.fixture
def client(grpc_address):
    with triton.InferenceServerClient(grpc_address) as client:
        yield client


def given(values: np.ndarray, name: str = "INPUT0") -> triton.InferInput:
    tensor = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return tensor.set_data_from_numpy(values)


def error_of(call, *arguments, **options) -> InferenceServerException:
    with pytest.raises(InferenceServerException) as raised:
        call(*arguments, **options)
    return raised.value


def test_the_server_and_its_models_describe_themselves(client, fleet):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("versioned", "3")
    metadata = client.get_server_metadata()
    assert metadata.name == "batchfleet" and "statistics" in metadata.extensions
    metadata = client.get_model_metadata("digits_wide", as_json=True)
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": ["-1", "64"]}]
    assert metadata["platform"] == "onnxruntime_onnx"
    assert client.get_model_metadata("versioned").versions == ["1", "3"]
    config = client.get_model_config("fixed").config
    assert (config.name, config.max_batch_size) == ("fixed", 4)
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("INPUT0", [4])]
    index = client.get_model_repository_index().models
    assert {entry.name for entry in index} >= set(fleet.models)
    assert {entry.state for entry in index if entry.name in fleet.models} == {"READY"}


def test_statistics_count_requests_and_rows(client):
    def statistics():
        (model,) = client.get_inference_statistics("echo_int16").model_stats
        return model

    before = statistics()
    client.infer("echo_int16", [given(np.ones([5, 2], dtype=np.int16))])
    after = statistics()
    assert after.inference_count - before.inference_count == 5
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert len(client.get_inference_statistics().model_stats) > 10


@pytest.mark.parametrize("datatype", repository.DATATYPES)
def test_every_datatype_survives(client, datatype):
    values = samples.row(datatype)
    answer = client.infer(f"echo_{datatype.lower()}", [given(values)])
    assert answer.get_output("OUTPUT0").datatype == datatype
    assert samples.same(answer.as_numpy("OUTPUT0"), values)


def test_a_request_may_carry_everything(client):
    answer = client.infer(
        "two_inputs",
        [given(np.array([[7, -8]], dtype=np.int32), "INPUT1"), given(VALUES)],
        outputs=[triton.InferRequestedOutput("OUTPUT1")],
        request_id="zażółć \u2603 7",
        priority=1,
        timeout=10_000_000,
        client_timeout=10,
        headers={"x-tenant": "a"},
        parameters={"tenant": "a", "trace": True, "weight": 3},
    )
    response = answer.get_response()
    assert (response.model_name, response.model_version) == ("two_inputs", "1")
    assert response.id == "zażółć \u2603 7"
    assert [output.name for output in response.outputs] == ["OUTPUT1"]
    assert answer.as_numpy("OUTPUT1").tolist() == [[7, -8]]


@pytest.mark.parametrize("rows", [1, 17, repository.MAX_BATCH])
def test_a_request_of_many_rows_gets_as_many_back(client, rows):
    values = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    assert samples.same(client.infer("echo_fp32", [given(values)]).as_numpy("OUTPUT0"), values)


def test_a_large_tensor_survives(client):
    values = np.random.default_rng(7).random([1, 2_000_000], dtype=np.float32)
    assert samples.same(client.infer("echo_fp32", [given(values)]).as_numpy("OUTPUT0"), values)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request_is_answered_as_a_plain_one(client, algorithm):
    values = np.zeros([1, 50_000], dtype=np.float32)
    answer = client.infer("echo_fp32", [given(values)], compression_algorithm=algorithm)
    assert samples.same(answer.as_numpy("OUTPUT0"), values)


def test_the_classes_of_an_output_are_its_highest_values(client):
    wanted = [triton.InferRequestedOutput("OUTPUT0", class_count=2)]
    answer = client.infer("echo_fp32", [given(VALUES)], outputs=wanted)
    assert answer.as_numpy("OUTPUT0").tolist() == [[b"3.250000:2", b"1.500000:0"]]


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [1.5, -2.0]),
        ("FP64", "fp64_contents", [1 / 3, -0.0]),
        ("BYTES", "bytes_contents", [b"", b"\xff\x00"]),
    ],
)
def test_typed_contents_are_taken_too(grpc_address, datatype, field, values):
    request = service_pb2.ModelInferRequest(model_name=f"echo_{datatype.lower()}")
    tensor = request.inputs.add(name="INPUT0", datatype=datatype, shape=[1, 2])
    getattr(tensor.contents, field).extend(values)
    with grpc.insecure_channel(grpc_address) as channel:
        answer = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    received = triton.InferResult(answer).as_numpy("OUTPUT0")
    assert received.tolist() == [values]


def test_a_call_may_ask_for_an_empty_final_response(grpc_address):
    """Triton's C++ client, and with it perf_analyzer, asks for it in every call."""
    request = service_pb2.ModelInferRequest(model_name="echo_int16", raw_input_contents=[b"\1\0"])
    request.inputs.add(name="INPUT0", datatype="INT16", shape=[1, 1])
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    with grpc.insecure_channel(grpc_address) as channel:
        answer = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert answer.raw_output_contents == [b"\1\0"] and len(answer.outputs) == 1


def test_a_callback_gets_the_answer(client):
    answers = queue.Queue()
    client.async_infer(
        "echo_fp32", [given(VALUES)], callback=lambda result, error: answers.put((result, error))
    )
    result, error = answers.get(timeout=MOST_WAIT)
    assert error is None and samples.same(result.as_numpy("OUTPUT0"), VALUES)


def test_a_call_may_be_cancelled_and_leaves_nothing(client, fleet):
    answers = queue.Queue()
    context = client.async_infer(
        "slow", [given(VALUES)], callback=lambda result, error: answers.put(error)
    )
    context.cancel()
    assert "Locally cancelled" in answers.get(timeout=MOST_WAIT).message()


@pytest.mark.parametrize("empty_final", [False, True])
def test_a_stream_answers_each_request_with_its_id(client, empty_final):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    expected = {}
    for number in range(50):
        values = np.full([1, 3], number, dtype=np.float32)
        expected[f"request {number}"] = values
        client.async_stream_infer(
            "echo_fp32",
            [given(values)],
            request_id=f"request {number}",
            enable_empty_final_response=empty_final,
        )
    for _ in range(50):
        result, error = answers.get(timeout=MOST_WAIT)
        assert error is None
        response = result.get_response()
        assert response.parameters["triton_final_response"].bool_param
        assert samples.same(result.as_numpy("OUTPUT0"), expected.pop(response.id))
    client.stop_stream()
    assert not expected


def test_an_error_in_a_stream_belongs_to_one_request(client):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    client.async_stream_infer("cats", [given(VALUES)], request_id="wrong")
    result, error = answers.get(timeout=MOST_WAIT)
    assert "model_not_found: " in error.message()
    client.async_stream_infer("echo_fp32", [given(VALUES)], request_id="right")
    result, error = answers.get(timeout=MOST_WAIT)
    assert error is None and result.get_response().id == "right"
    client.stop_stream()


def test_answers_of_a_stream_come_as_they_are_done(client):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    client.async_stream_infer("slow", [given(VALUES)], request_id="slow")
    client.async_stream_infer("echo_fp32", [given(VALUES)], request_id="fast")
    ids = [answers.get(timeout=MOST_WAIT)[0].get_response().id for _ in range(2)]
    client.stop_stream()
    assert ids == ["fast", "slow"]


@pytest.mark.parametrize(
    ("model", "values", "options", "status", "words"),
    [
        ("cats", VALUES, {}, "NOT_FOUND", "model_not_found: "),
        ("versioned", VALUES, {"model_version": "2"}, "NOT_FOUND", "version 2"),
        ("fixed", VALUES, {}, "INVALID_ARGUMENT", "[-1, 4]"),
        ("echo_fp32", VALUES.astype(np.int64), {}, "INVALID_ARGUMENT", "INT64"),
        ("echo_fp32", VALUES, {"sequence_id": 7}, "UNIMPLEMENTED", "stateless"),
        ("echo_fp32", np.zeros([1, (64 << 20) // 4], np.float32), {}, "RESOURCE_EXHAUSTED", "too_large"),
    ],
    ids=["unknown-model", "unknown-version", "shape", "datatype", "sequence", "too-large"],
)
def test_errors_reach_the_caller_in_our_words(client, model, values, options, status, words):
    error = error_of(client.infer, model, [given(values)], **options)
    assert error.status() == f"StatusCode.{status}"
    assert words in error.message()
    assert client.is_server_live(), "the client must go on working"


@pytest.mark.parametrize(
    "options", [{"timeout": 50_000}, {"client_timeout": 0.05}], ids=["parameter", "deadline"]
)
def test_a_deadline_ends_the_wait(client, options):
    error = error_of(client.infer, "slow", [given(VALUES)], **options)
    assert error.status() in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE")


def test_what_a_fleet_cannot_do_is_refused_with_the_way_to_do_it(client, fleet):
    way = "ModelFleet" if fleet.redis else "--model-control explicit"
    for call, arguments, words in (
        (client.load_model, ["echo_fp32"], way),
        (client.unload_model, ["echo_fp32"], way),
        (client.register_system_shared_memory, ["a", "/a", 8], "raw_input_contents"),
        (client.get_trace_settings, [], "--trace-endpoint"),
        (client.get_log_settings, [], "--log"),
    ):
        error = error_of(call, *arguments)
        assert error.status() == "StatusCode.UNIMPLEMENTED"
        assert words in error.message()
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()


def raw(channel, method: str, request: bytes, kind: str = "unary_unary"):
    """Calls a method with bytes, as a client without its .proto file does."""
    call = getattr(channel, kind)(method)
    return b"".join(call(iter([request]))) if kind == "stream_stream" else call(request)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_services(grpc_address, version):
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    with grpc.insecure_channel(grpc_address) as channel:
        listed = raw(channel, method, LIST_SERVICES, "stream_stream")
        symbol = b"inference.GRPCInferenceService"
        found = raw(channel, method, b"\x22" + bytes([len(symbol)]) + symbol, "stream_stream")
    assert symbol in listed and b"grpc.health.v1.Health" in listed
    assert b"ModelStreamInfer" in found and b"model_config.proto" in found


def test_the_health_service_answers_probes(grpc_address):
    with grpc.insecure_channel(grpc_address) as channel:
        check = partial(raw, channel, "/grpc.health.v1.Health/Check")
        assert check(b"") == check(b"\x0a\x1einference.GRPCInferenceService") == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as raised:
            check(b"\x0a\x04cats")
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
