"""tritonclient[http], the most common client."""

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

import repository
import samples
from tensors import given, wanted

JSON_DATATYPES = [name for name in repository.DATATYPES if name not in ("FP16", "BF16")]
VALUES = np.array([[1.5, -2.0, 3.25]], dtype=np.float32)


@pytest.fixture
def client(address):
    with triton.InferenceServerClient(address) as client:
        yield client


def error_of(call, *arguments, **options) -> InferenceServerException:
    with pytest.raises(InferenceServerException) as raised:
        call(*arguments, **options)
    return raised.value


def test_the_server_is_live_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()


def test_a_model_is_ready_and_an_unknown_one_is_not(client):
    assert client.is_model_ready("echo_fp32")
    assert client.is_model_ready("versioned", "3")
    assert not client.is_model_ready("versioned", "2")
    assert not client.is_model_ready("cats")


def test_the_server_tells_its_name_and_extensions(client):
    metadata = client.get_server_metadata()
    assert metadata["name"] == "batchfleet"
    assert metadata["version"]
    assert {"binary_tensor_data", "model_configuration", "statistics"} <= set(
        metadata["extensions"]
    )


def test_a_model_tells_its_inputs_outputs_and_versions(client):
    metadata = client.get_model_metadata("digits_wide")
    assert metadata["name"] == "digits_wide"
    assert metadata["versions"] == ["1"]
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]
    assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
    assert client.get_model_metadata("versioned", "1")["versions"] == ["1", "3"]


def test_a_model_tells_its_config_with_dimensions_less_the_batch(client):
    config = client.get_model_config("fixed")
    assert (config["name"], config["max_batch_size"]) == ("fixed", 4)
    (tensor,) = config["input"]
    assert (tensor["name"], tensor["data_type"], tensor["dims"]) == ("INPUT0", "TYPE_FP32", [4])
    (tensor,) = config["output"]
    assert (tensor["name"], tensor["data_type"], tensor["dims"]) == ("OUTPUT0", "TYPE_FP32", [4])
    assert client.get_model_config("unbatched")["max_batch_size"] == 0


def test_the_repository_index_lists_every_model_as_ready(client, fleet):
    index = client.get_model_repository_index()
    assert {entry["name"] for entry in index} >= set(fleet.models)
    entries = [entry for entry in index if entry["name"] == "versioned"]
    assert [(entry["version"], entry["state"]) for entry in entries] == [
        ("1", "READY"),
        ("3", "READY"),
    ]


def statistics(client, model):
    (model,) = client.get_inference_statistics(model)["model_stats"]
    return model


def test_statistics_count_requests_rows_and_time(client):
    before = statistics(client, "echo_int16")
    client.infer("echo_int16", [given(np.ones([5, 2], dtype=np.int16))])
    after = statistics(client, "echo_int16")
    assert (after["name"], after["version"]) == ("echo_int16", "1")
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["last_inference"] > before["last_inference"]
    for kind in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        earlier, later = before["inference_stats"][kind], after["inference_stats"][kind]
        assert later["count"] - earlier["count"] == 1, kind
        assert later["ns"] >= earlier["ns"], kind
    for kind in ("fail", "cache_hit", "cache_miss"):
        assert after["inference_stats"][kind] == {"count": 0, "ns": 0}


def test_statistics_count_failures(client):
    before = statistics(client, "slow")["inference_stats"]["fail"]
    error_of(client.infer, "slow", [given(VALUES)], timeout=50_000)
    after = statistics(client, "slow")["inference_stats"]["fail"]
    assert after["count"] - before["count"] == 1
    assert after["ns"] > before["ns"]


def test_statistics_of_every_model_come_at_once(client, fleet):
    names = [model["name"] for model in client.get_inference_statistics()["model_stats"]]
    assert set(names) >= set(fleet.models)


@pytest.mark.parametrize("datatype", repository.DATATYPES)
def test_every_datatype_survives_in_binary(client, datatype):
    values = samples.row(datatype)
    answer = client.infer(f"echo_{datatype.lower()}", [given(values)])
    assert answer.get_output("OUTPUT0")["datatype"] == datatype
    assert samples.same(answer.as_numpy("OUTPUT0"), values)


@pytest.mark.parametrize("datatype", JSON_DATATYPES)
def test_every_datatype_with_a_json_form_survives_in_json(client, datatype):
    values = samples.row(datatype)
    outputs = [wanted(binary=False)]
    answer = client.infer(
        f"echo_{datatype.lower()}", [given(values, binary=False)], outputs=outputs
    )
    assert "parameters" not in answer.get_output("OUTPUT0")
    received = answer.as_numpy("OUTPUT0")
    if datatype == "BYTES":  # the client does not encode strings of a JSON answer
        received = np.array([[text.encode() for text in received[0]]], dtype=object)
    assert samples.same(received, values)


def test_bytes_that_are_no_text_survive_in_binary(client):
    values = np.array([[b"\xff\xfe\x00", bytes(range(256))]], dtype=object)
    assert samples.same(client.infer("echo_bytes", [given(values)]).as_numpy("OUTPUT0"), values)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_inputs_and_outputs_choose_their_form_apart(client, binary_in, binary_out):
    inputs, outputs = [given(VALUES, binary=binary_in)], [wanted(binary=binary_out)]
    answer = client.infer("echo_fp32", inputs, outputs=outputs)
    assert ("data" in answer.get_output("OUTPUT0")) != binary_out
    assert samples.same(answer.as_numpy("OUTPUT0"), VALUES)


def test_forms_may_be_mixed_within_one_request(client):
    numbers = np.array([[7, -8]], dtype=np.int32)
    inputs = [given(numbers, "INPUT1", binary=False), given(VALUES, "INPUT0")]
    outputs = [wanted("OUTPUT0", binary=False), wanted("OUTPUT1")]
    answer = client.infer("two_inputs", inputs, outputs=outputs)
    assert samples.same(answer.as_numpy("OUTPUT0"), VALUES)
    assert samples.same(answer.as_numpy("OUTPUT1"), numbers)


def test_only_the_requested_outputs_come(client):
    inputs = [given(VALUES), given(np.array([[1]], dtype=np.int32), "INPUT1")]
    answer = client.infer("two_inputs", inputs, outputs=[wanted("OUTPUT1")])
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["OUTPUT1"]
    answer = client.infer("two_inputs", inputs)
    outputs = [output["name"] for output in answer.get_response()["outputs"]]
    assert outputs == ["OUTPUT0", "OUTPUT1"]


def test_the_answer_names_the_model_its_version_and_the_callers_id(client):
    response = client.infer(
        "versioned", [given(VALUES)], request_id="zażółć \u2603 7"
    ).get_response()
    assert (response["model_name"], response["model_version"]) == ("versioned", "3")
    assert response["id"] == "zażółć \u2603 7"
    response = client.infer("versioned", [given(VALUES)], model_version="1").get_response()
    assert response["model_version"] == "1"
    assert "id" not in response


@pytest.mark.parametrize("rows", [1, 2, 17, repository.MAX_BATCH])
def test_a_request_of_many_rows_gets_as_many_back(client, rows):
    values = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    assert samples.same(client.infer("echo_fp32", [given(values)]).as_numpy("OUTPUT0"), values)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_an_empty_row_gets_an_empty_row(client, datatype, binary):
    values = np.empty([1, 0], dtype=object if datatype == "BYTES" else np.float32)
    model, inputs = f"echo_{datatype.lower()}", [given(values, binary=binary)]
    answer = client.infer(model, inputs, outputs=[wanted(binary=binary)])
    assert answer.as_numpy("OUTPUT0").shape == (1, 0)


def test_a_model_without_a_batch_takes_shapes_as_they_are(client):
    values = np.array([True, False, True])
    assert samples.same(client.infer("unbatched", [given(values)]).as_numpy("OUTPUT0"), values)


def test_priority_timeout_and_unknown_parameters_are_accepted(client):
    answer = client.infer(
        "echo_fp32",
        [given(VALUES)],
        priority=1,
        timeout=10_000_000,
        parameters={"tenant": "a", "trace": True, "weight": 3},
        headers={"x-tenant": "a"},
        query_params={"a": 1, "b": ["x y", "z"]},
    )
    assert samples.same(answer.as_numpy("OUTPUT0"), VALUES)


@pytest.mark.parametrize("binary", [True, False])
def test_the_classes_of_an_output_are_its_highest_values(client, binary):
    wanted = [triton.InferRequestedOutput("OUTPUT0", binary_data=binary, class_count=2)]
    values = np.concatenate([VALUES, -VALUES])
    answer = client.infer("echo_fp32", [given(values)], outputs=wanted)
    found = answer.as_numpy("OUTPUT0").tolist()
    classes = [[text.decode() if binary else text for text in row] for row in found]
    assert classes == [["3.250000:2", "1.500000:0"], ["2.000000:1", "-1.500000:0"]]
    bytes_of = given(np.array([["a", "b"]], dtype=object))
    error = error_of(client.infer, "echo_bytes", [bytes_of], outputs=wanted)
    assert error.status() == "400"
    assert "unsupported type 'BYTES'" in error.message()


def test_a_timeout_of_0_is_none(client):
    answer = client.infer("echo_fp32", [given(VALUES)], timeout=0, priority=0)
    assert samples.same(answer.as_numpy("OUTPUT0"), VALUES)


def test_a_timeout_that_is_too_short_is_an_error_about_the_deadline(client):
    error = error_of(client.infer, "slow", [given(VALUES)], timeout=50_000)
    assert error.status() in ("503", "504")  # refused immediately, or expired
    assert "deadline" in error.message()


def test_many_requests_of_one_client_at_once_each_get_their_own_answer(address):
    with triton.InferenceServerClient(address, concurrency=16) as client:
        rows = [np.array([[n, n + 0.5]], dtype=np.float32) for n in range(64)]
        waiting = [client.async_infer("echo_fp32", [given(values)]) for values in rows]
        for values, answer in zip(rows, waiting, strict=True):
            assert samples.same(answer.get_result().as_numpy("OUTPUT0"), values)


def test_the_servers_address_may_not_have_a_path_it_does_not_serve(address):
    with triton.InferenceServerClient(f"{address}/elsewhere") as client:
        assert "no such path" in error_of(client.get_server_metadata).message()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_a_compressed_request_is_answered_as_a_plain_one(client, algorithm, binary):
    options = {"request_compression_algorithm": algorithm}
    answer = client.infer("echo_fp32", [given(VALUES, binary=binary)], **options)
    assert samples.same(answer.as_numpy("OUTPUT0"), VALUES)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_client_that_asks_for_a_compressed_answer_can_read_it(client, algorithm):
    inputs, options = [given(VALUES)], {"response_compression_algorithm": algorithm}
    answer = client.infer("echo_fp32", inputs, **options)
    assert samples.same(answer.as_numpy("OUTPUT0"), VALUES)
    assert "cats" in error_of(client.infer, "cats", inputs, **options).message()


def test_an_error_names_the_unknown_model_or_version(client):
    for call in (
        client.get_model_metadata,
        client.get_model_config,
        client.get_inference_statistics,
    ):
        error = error_of(call, "cats")
        assert error.status() == "404"
        assert "cats" in error.message()
    error = error_of(client.infer, "echo_fp32", [given(VALUES)], model_version="9")
    assert (error.status(), "9" in error.message()) == ("404", True)


def test_an_error_about_a_shape_gives_the_right_shape(client):
    error = error_of(client.infer, "fixed", [given(VALUES)])
    assert error.status() == "400"
    assert "[1, 3]" in error.message() and "[-1, 4]" in error.message()


def test_an_error_about_a_datatype_gives_the_right_datatype(client):
    error = error_of(client.infer, "echo_fp32", [given(VALUES.astype(np.int64))])
    assert error.status() == "400"
    assert "INT64" in error.message() and "FP32" in error.message()


def test_errors_give_the_wrong_name(client):
    error = error_of(client.infer, "echo_fp32", [given(VALUES, "cat")])
    assert "cat" in error.message()
    error = error_of(client.infer, "echo_fp32", [given(VALUES)], outputs=[wanted("dog")])
    assert "dog" in error.message()


def test_an_error_about_too_many_rows_gives_the_limit(client):
    error = error_of(client.infer, "fixed", [given(np.zeros([5, 4], dtype=np.float32))])
    assert error.status() == "400"
    assert "batch_too_large" in error.message() and "4" in error.message()


def test_half_precision_in_json_is_refused_with_a_hint_at_the_binary_form(client):
    half = samples.row("FP16")
    for inputs, outputs in (
        ([given(half, binary=False)], [wanted()]),
        ([given(half)], [wanted(binary=False)]),
    ):
        error = error_of(client.infer, "echo_fp16", inputs, outputs=outputs)
        assert error.status() == "400"
        assert "binary" in error.message()


def test_a_body_over_the_limit_is_refused_and_the_client_goes_on_working(client):
    too_large = np.zeros([1, (64 << 20) // 4], dtype=np.float32)
    error = error_of(client.infer, "echo_fp32", [given(too_large)])
    assert error.status() == "413"
    assert "too_large" in error.message()
    assert client.is_server_live(), "the client must go on working"


def test_a_large_tensor_survives(client):
    values = np.random.default_rng(7).random([1, 2_000_000], dtype=np.float32)
    assert samples.same(client.infer("echo_fp32", [given(values)]).as_numpy("OUTPUT0"), values)


def test_models_of_a_server_without_model_control_are_not_loaded(client, fleet):
    way = "ModelFleet" if fleet.redis else "--model-control explicit"
    for call in (client.load_model, client.unload_model):
        error = error_of(call, "echo_fp32")
        assert error.status() == "400"
        assert way in error.message()
    assert client.is_model_ready("echo_fp32")


def test_unsupported_extensions_are_refused_with_404(client):
    for call, arguments in (
        (client.get_trace_settings, []),
        (client.get_log_settings, []),
    ):
        error = error_of(call, *arguments)
        assert error.status() == "404"
        assert "no such path" in error.message()


@pytest.mark.parametrize("kind", ["system", "cuda"])
def test_shared_memory_is_empty_and_is_not_registered(client, kind):
    assert getattr(client, f"get_{kind}_shared_memory_status")() == []
    assert getattr(client, f"get_{kind}_shared_memory_status")("region") == []
    getattr(client, f"unregister_{kind}_shared_memory")()
    getattr(client, f"unregister_{kind}_shared_memory")("region")
    arguments = ["region", "/key", 8] if kind == "system" else ["region", b"handle", 0, 8]
    error = error_of(getattr(client, f"register_{kind}_shared_memory"), *arguments)
    assert error.status() == "400"
    assert "binary data" in error.message()


def test_an_unknown_model_is_refused_in_the_words_of_triton(client):
    error = error_of(client.infer, "cats", [given(VALUES)])
    assert "Request for unknown model: 'cats' is not found" in error.message()
    error = error_of(client.infer, "versioned", [given(VALUES)], model_version="7")
    assert "Request for unknown model: 'versioned' version 7 is not found" in error.message()
