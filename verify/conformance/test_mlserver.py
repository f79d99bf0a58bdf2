"""MLServer: its command line, and its messages over gRPC."""

import json
import subprocess

import numpy as np
import pytest

import repository

MLSERVER = repository.ROOT / ".cache" / "venv-mlserver" / "bin" / "mlserver"


@pytest.mark.parametrize(
    "options",
    [[], ["--batch-size", "16"], ["--batch-size", "5", "--binary-data"]],
    ids=["one by one", "in micro-batches", "in binary"],
)
def test_infers_a_file_of_digits(address, digits, expected_digits, tmp_path, options):
    requests, answers = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    count = 100
    with requests.open("w") as lines:
        for number, pixels in enumerate(digits.pixels[:count]):
            tensor = {
                "name": "pixels",
                "datatype": "FP32",
                "shape": [1, 64],
                "data": pixels.tolist(),
            }
            lines.write(json.dumps({"id": f"digit-{number}", "inputs": [tensor]}) + "\n")

    files = ["--input-data-path", requests, "--output-data-path", answers]
    command = [MLSERVER, "infer", "--url", address, "--model-name", "digits_wide", *files, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr

    received = {}
    for line in answers.read_text().splitlines():
        answer = json.loads(line)
        (output,) = answer["outputs"]
        received[answer["parameters"]["batch_index"]] = (answer["id"], output["data"])
    assert sorted(received) == list(range(count))
    for number, (name, probabilities) in received.items():
        assert name == f"digit-{number}"
        assert np.allclose(probabilities, expected_digits[number], atol=1e-4)


def test_an_error_reaches_the_callers_file_in_our_words(address, tmp_path):
    requests, answers = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    requests.write_text(json.dumps({"inputs": [tensor]}) + "\n")
    files = ["--input-data-path", requests, "--output-data-path", answers]
    command = [MLSERVER, "infer", "-u", address, "-m", "digits_wide", "--retries", "1", *files]
    subprocess.run(command, capture_output=True, check=True, timeout=50)
    assert "[-1, 64]" in json.loads(answers.read_text())["error"]["msg"]


def test_infers_over_grpc_with_the_messages_of_mlserver(grpc_address):
    script = repository.ROOT / "verify" / "conformance" / "mlserver_grpc.py"
    command = [MLSERVER.with_name("python"), script, grpc_address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
