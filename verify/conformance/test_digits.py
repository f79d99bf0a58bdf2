"""Real models over HTTP answer the same as ONNX Runtime without Batchfleet."""

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton
from whatfile import features  # the script beside the model

import repository
from concurrently import infer_all
from tensors import given

LEAST_ACCURACY = 0.985


def ask(address: str, pixels: np.ndarray) -> np.ndarray:
    with triton.InferenceServerClient(address) as client:
        return client.infer("digits_wide", [given(pixels, "pixels")]).as_numpy("probabilities")


def test_callers_of_one_digit_each_get_what_onnx_runtime_itself_answers(
    address, digits, expected_digits
):
    rows = [pixels[None] for pixels in digits.pixels]
    answers = infer_all(address, "digits_wide", rows, "pixels", "probabilities")
    received = np.concatenate(answers)
    assert np.abs(received - expected_digits).max() < 1e-4
    assert np.mean(received.argmax(axis=1) == digits.labels) >= LEAST_ACCURACY


@pytest.mark.parametrize("rows", [1, 7, 32])
def test_a_request_of_many_digits_is_answered_row_by_row(address, digits, expected_digits, rows):
    received = ask(address, digits.pixels[:rows])
    assert np.abs(received - expected_digits[:rows]).max() < 1e-4


def test_b57_nan_in_one_row_does_not_change_other_rows_of_the_batch(
    address, digits, expected_digits
):
    rows = [pixels[None].copy() for pixels in digits.pixels[:64]]
    for row in rows[::2]:
        row[0, 5] = np.nan
    answers = infer_all(address, "digits_wide", rows, "pixels", "probabilities")
    for number in range(1, 64, 2):
        assert np.abs(answers[number][0] - expected_digits[number]).max() < 1e-4


def test_magika_tells_what_kind_of_file_it_is(address):
    """A second real model, with another datatype, wide rows and many outputs."""
    model = repository.MODELS / "magika"
    session = onnxruntime.InferenceSession(
        model / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (tensor,), (scores,) = session.get_inputs(), session.get_outputs()
    script = repository.ROOT / "verify/conformance/run.sh"
    values = np.array([features(script)], dtype=np.int32)
    (expected,) = session.run(None, {tensor.name: values})

    with triton.InferenceServerClient(address) as client:
        received = client.infer("magika", [given(values, tensor.name)]).as_numpy(scores.name)
    assert np.abs(received - expected).max() < 1e-4
    labels = (model / "labels.txt").read_text().split()
    assert labels[received[0].argmax()] == "shell"
