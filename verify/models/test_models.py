"""Real models under load: every answer equals that of ONNX Runtime to the same input alone."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import onnxruntime_extensions
import pytest

from cases import CASES, Case
from client import Client, Tensors
from fleet import KINDS, PROGRAMS, running

CALLERS = 32
REQUESTS = 7  # of each caller: 224 answers in all


def write(repository: Path) -> list[str]:
    """Fills a model repository with the models of all cases."""
    for case in CASES:
        version = repository / case.name / "1"
        version.mkdir(parents=True)
        case.write(version)
        if case.config:
            (version.parent / "config.pbtxt").write_text(case.config)
    return [case.name for case in CASES]


@pytest.fixture(scope="session", params=KINDS)
def fleet(request, tmp_path_factory):
    with running(tmp_path_factory.mktemp(request.param), request.param, write=write) as fleet:
        yield fleet


def alone(fleet, case: Case) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    file = fleet.repository / case.name / "1" / "model.onnx"
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_answer_equals_that_of_the_runtime_alone(fleet, case):
    session = alone(fleet, case)
    names = [output.name for output in session.get_outputs()]

    def call(caller: int) -> None:
        rng, client, answer = np.random.default_rng(caller), Client(fleet.http), None
        for _ in range(REQUESTS):
            request = case.request(rng, answer)
            answer = client.infer(case.name, request)
            expected = dict(zip(names, session.run(None, request), strict=True))
            compare(answer, expected, case.tolerance)

    with ThreadPoolExecutor(CALLERS) as pool:
        for done in [pool.submit(call, caller) for caller in range(CALLERS)]:
            done.result()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_requests_run_together_unless_they_would_influence_each_other(fleet, case):
    client = Client(fleet.http)
    status, config = client.get(f"/v2/models/{case.name}/config")
    assert status == 200
    warnings = [record for record in fleet.records() if record["level"] == "WARN"]
    refused = "requests cannot share a batch: serving one request at a time"
    causes = [
        record["cause"]
        for record in warnings
        if record["message"].startswith(refused) and record["model"] == f"{case.name}:1"
    ]
    if not case.mixed_by:
        assert config["max_batch_size"] > 1 and not causes, (config, causes)
        return
    assert config["max_batch_size"] == 0, config
    assert len(causes) == 1 and case.mixed_by in causes[0], warnings
    notes = client.get(f"/v2/models/{case.name}/batching")[1]["notes"]
    assert any("the rows of a batch influence each other: output" in note for note in notes), notes


def test_the_padding_that_check_offers_is_that_of_the_padded_model(tmp_path):
    case = next(case for case in CASES if case.name == "text_encoder")
    version = tmp_path / case.name / "1"
    version.mkdir(parents=True)
    case.write(version)
    check = [PROGRAMS / "batchfleet", "check", version.parent]
    report = subprocess.run(check, check=True, capture_output=True, text=True).stdout
    offered = report.partition("config.pbtxt:\n\n")[2]
    assert 'key: "pad" value { string_value: "input_ids:1=0 attention_mask:1=0" }' in offered, report
    (version.parent / "config.pbtxt").write_text(offered)
    report = subprocess.run(check, check=True, capture_output=True, text=True).stdout
    assert "run together, padded" in report and "config.pbtxt:" not in report, report


def compare(answer: Tensors, expected: Tensors, tolerance: float) -> None:
    assert answer.keys() == expected.keys()
    for name, wanted in expected.items():
        found = answer[name]
        assert found.shape == wanted.shape, name
        if wanted.dtype == object:
            encoded = [string.encode() for string in wanted.flat]
            assert list(found.flat) == encoded, name
        elif wanted.dtype.kind != "f":
            np.testing.assert_array_equal(found, wanted, name)
        else:
            largest = float(np.abs(wanted).max(initial=0))
            np.testing.assert_allclose(found, wanted, 0, tolerance * largest + 1e-6, err_msg=name)
