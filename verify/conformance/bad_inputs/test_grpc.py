"""The bad inputs of HTTP that have a form in gRPC, and messages that are none."""

import struct

import grpc
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

from wire import KEY

from .checks import check_still_good

SERVICE = "/inference.GRPCInferenceService"
PAIR = struct.pack("<2f", 1.5, -2.5)
MOST_WAIT = 20  # seconds


def message(raw: list[bytes] | None = None, model: str = "echo_fp32", **fields) -> ModelInferRequest:
    """A request with one input of two numbers. `fields` replace its fields."""
    fields = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2]} | fields
    request = ModelInferRequest(model_name=model, raw_input_contents=[PAIR] if raw is None else raw)
    request.inputs.add(**fields)
    return request


def typed(values: list, field: str = "fp32_contents", **fields) -> ModelInferRequest:
    request = message(raw=[], **fields)
    getattr(request.inputs[0].contents, field).extend(values)
    return request


def changed(change, request: ModelInferRequest | None = None) -> ModelInferRequest:
    request = request or message()
    change(request)
    return request


def parameter(name: str, **value) -> ModelInferRequest:
    def add(request):
        key = request.parameters[name]
        for field, content in value.items():
            setattr(key, field, content)

    return changed(add)


def second_input(request):
    request.inputs.add(name="INPUT1", datatype="FP32", shape=[1, 2])


def strings(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


BAD = {
    "empty": (b"", "NOT_FOUND", "model_not_found"),
    "json": (b'{"inputs":[]}', "INVALID_ARGUMENT", "bad_message"),
    "cut": (message().SerializeToString()[:-1], "INVALID_ARGUMENT", "bad_message"),
    "nul": (b"\0", "INVALID_ARGUMENT", "bad_message"),
    "no-end": (b"\xff" * 11, "INVALID_ARGUMENT", "bad_message"),
    "length-past-the-end": (b"\x0a\xff\xff\xff\xff\x0fecho", "INVALID_ARGUMENT", "bad_message"),
    "name-no-text": (b"\x0a\x02\xff\xfe", "INVALID_ARGUMENT", "bad_message"),
    "no-input": (changed(lambda r: r.ClearField("inputs")), "INVALID_ARGUMENT", "bad_binary"),
    "unknown-model": (message(model="cats"), "NOT_FOUND", "model_not_found"),
    "path-as-model": (message(model="../../etc"), "NOT_FOUND", "model_not_found"),
    "unknown-version": (
        changed(lambda r: setattr(r, "model_version", "7")),
        "NOT_FOUND",
        "model_not_found",
    ),
    "no-version": (
        changed(lambda r: setattr(r, "model_version", "one")),
        "NOT_FOUND",
        "model_not_found",
    ),
    "long-id": (changed(lambda r: setattr(r, "id", "i" * 256)), "INVALID_ARGUMENT", "bad_id"),
    "unknown-input": (message(name="INPUT9"), "INVALID_ARGUMENT", "bad_inputs"),
    "input-without-name": (message(name=""), "INVALID_ARGUMENT", "bad_inputs"),
    "second-input": (changed(second_input), "INVALID_ARGUMENT", "bad_inputs"),
    "unknown-datatype": (message(datatype="FLOAT"), "INVALID_ARGUMENT", "bad_datatype"),
    "other-datatype": (message(datatype="INT32"), "INVALID_ARGUMENT", "bad_datatype"),
    "negative-dimension": (message(shape=[1, -2]), "INVALID_ARGUMENT", "bad_shape"),
    "overflowing-shape": (message(shape=[2**62, 2**62]), "INVALID_ARGUMENT", "bad_shape"),
    "33-dimensions": (message(shape=[1] * 33), "INVALID_ARGUMENT", "bad_shape"),
    "rank": (message(shape=[2]), "INVALID_ARGUMENT", "bad_shape"),
    "no-rows": (message([b""], shape=[0, 2]), "INVALID_ARGUMENT", "bad_shape"),
    "too-many-rows": (message([bytes(65 * 4)], shape=[65, 1]), "INVALID_ARGUMENT", "batch_too_large"),
    "raw-short": (message([PAIR[:-1]]), "INVALID_ARGUMENT", "bad_binary"),
    "raw-long": (message([PAIR + b"\0"]), "INVALID_ARGUMENT", "bad_binary"),
    "raw-twice": (message([PAIR, PAIR]), "INVALID_ARGUMENT", "bad_binary"),
    "raw-and-typed": (
        changed(lambda r: r.raw_input_contents.append(PAIR), typed([1, 2])),
        "INVALID_ARGUMENT",
        "bad_binary",
    ),
    "bool-of-2": (
        message([b"\1\2"], "echo_bool", datatype="BOOL"),
        "INVALID_ARGUMENT",
        "bad_binary",
    ),
    "string-past-the-end": (
        message([struct.pack("<I", 9)], "echo_bytes", datatype="BYTES", shape=[1, 1]),
        "INVALID_ARGUMENT",
        "bad_binary",
    ),
    "too-few-strings": (
        message([strings(b"a")], "echo_bytes", datatype="BYTES"),
        "INVALID_ARGUMENT",
        "bad_binary",
    ),
    "nothing": (message([]), "INVALID_ARGUMENT", "bad_data"),
    "typed-short": (typed([1]), "INVALID_ARGUMENT", "bad_data"),
    "typed-long": (typed([1, 2, 3]), "INVALID_ARGUMENT", "bad_data"),
    "typed-elsewhere": (typed([1, 2], "fp64_contents"), "INVALID_ARGUMENT", "bad_data"),
    "typed-out-of-range": (
        typed([1, 128], "int_contents", datatype="INT8", model="echo_int8"),
        "INVALID_ARGUMENT",
        "bad_data",
    ),
    "typed-half": (
        typed([1, 2], datatype="FP16", model="echo_fp16"),
        "UNIMPLEMENTED",
        "unsupported",
    ),
    "unknown-output": (
        changed(lambda r: r.outputs.add(name="OUTPUT9")),
        "INVALID_ARGUMENT",
        "bad_outputs",
    ),
    "timeout-negative": (parameter("timeout", int64_param=-1), "INVALID_ARGUMENT", "bad_parameter"),
    "timeout-text": (parameter("timeout", string_param="1"), "INVALID_ARGUMENT", "bad_parameter"),
    "priority-half": (parameter("priority", double_param=0.5), "INVALID_ARGUMENT", "bad_parameter"),
    "reserved": (parameter("triton_x", bool_param=True), "INVALID_ARGUMENT", "bad_parameter"),
    "sequence": (parameter("sequence_id", int64_param=3), "UNIMPLEMENTED", "unsupported"),
    "shared-memory": (
        changed(
            lambda r: setattr(
                r.inputs[0].parameters["shared_memory_region"], "string_param", "region"
            )
        ),
        "UNIMPLEMENTED",
        "unsupported",
    ),
    "over-the-limit": (bytes((64 << 20) + 1), "RESOURCE_EXHAUSTED", "too_large"),
    "at-the-limit": (b"\x7a" + bytes(100), "INVALID_ARGUMENT", "bad_message"),
}


@pytest.fixture(scope="session")
def channel(fleet):
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(fleet.grpc, options=options) as channel:
        yield channel


def encode(request) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


def call(channel, request, metadata=(), method: str = "ModelInfer"):
    """Returns the answer, or the error that was raised."""
    metadata = (("x-api-key", KEY), *metadata)
    try:
        return channel.unary_unary(f"{SERVICE}/{method}")(
            encode(request), metadata=metadata, timeout=MOST_WAIT
        )
    except grpc.RpcError as error:
        return error


def check_error(error, status: str, code: str) -> None:
    assert isinstance(error, grpc.RpcError), error
    assert error.code() == getattr(grpc.StatusCode, status), error
    name, text = error.details().split(": ", 1)
    assert name == code, error
    assert 5 < len(text) < 500
    assert dict(error.trailing_metadata())["x-error-code"] == code


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_gets_its_status_and_leaves_nothing(fleet, channel, name):
    request, status, code = BAD[name]
    with fleet.front.growth_within(2 * fleet.max_body):
        error = call(channel, request)
    check_error(error, status, code)
    check_still_good(fleet)


@pytest.mark.parametrize("name", [name for name in BAD if "limit" not in name])
def test_a_bad_message_in_a_stream_gets_its_error_and_the_stream_goes_on(fleet, channel, name):
    request, _, code = BAD[name]
    good = changed(lambda r: setattr(r, "id", "good")).SerializeToString()
    answers = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(
        iter([encode(request), good]), timeout=MOST_WAIT
    )
    answers = [ModelStreamInferResponse.FromString(answer) for answer in answers]
    (error,) = [answer for answer in answers if answer.error_message]
    (answer,) = [answer for answer in answers if not answer.error_message]
    assert error.error_message.startswith(f"{code}: ")
    assert answer.infer_response.id == "good"
    assert list(answer.infer_response.raw_output_contents) == [PAIR]
    check_still_good(fleet)


@pytest.mark.parametrize(
    ("metadata", "status", "code"),
    [
        (("x-request-timeout-ms", "0"), "INVALID_ARGUMENT", "bad_parameter"),
        (("x-request-timeout-ms", "soon"), "INVALID_ARGUMENT", "bad_parameter"),
        (("x-priority", "urgent"), "INVALID_ARGUMENT", "bad_parameter"),
        (("traceparent", "nonsense"), None, None),
        (("x-priority", "critical"), None, None),
    ],
)
def test_metadata_is_checked_as_headers_are(fleet, channel, metadata, status, code):
    answer = call(channel, message(), [metadata])
    if status is None:
        assert list(ModelInferResponse.FromString(answer).raw_output_contents) == [PAIR]
    else:
        check_error(answer, status, code)
    check_still_good(fleet)


def test_an_unknown_method_or_service_is_not_implemented(fleet, channel):
    for method in (f"{SERVICE}/Nothing", "/other.Service/Nothing"):
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(method)(b"")
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    check_still_good(fleet)


def test_many_small_parts_take_no_memory(fleet, channel):
    """Decoding 16 MiB of empty inputs, parameters and strings would take GiBs."""
    few = b"\x0a\x09echo_fp32"
    for part in (b"\x2a\x00", b"\x22\x00", b"\x32\x00", b"\x3a\x00"):
        with fleet.front.growth_within(2 * fleet.max_body):
            error = call(channel, few + part * (8 << 20))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    check_still_good(fleet)


@pytest.mark.parametrize("key", [None, "guessed"])
def test_a_call_without_a_valid_key_is_denied(guarded, key):
    with grpc.insecure_channel(guarded.grpc) as channel:
        for method, request in (("ModelInfer", encode(message())), ("RepositoryIndex", b"")):
            metadata = [] if key is None else [("authorization", f"Bearer {key}")]
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(f"{SERVICE}/{method}")(request, metadata=metadata)
            check_error(raised.value, "UNAUTHENTICATED", "unauthorized")
    check_still_good(guarded)


def test_a_key_is_taken_as_metadata_and_limits_hold(guarded):
    with grpc.insecure_channel(guarded.grpc) as channel:
        answer = call(channel, message())
        assert list(ModelInferResponse.FromString(answer).raw_output_contents) == [PAIR]
        check_error(
            call(channel, bytes(guarded.max_body + 1)), "RESOURCE_EXHAUSTED", "too_large"
        )
    check_still_good(guarded)
