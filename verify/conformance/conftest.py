"""Every test runs twice: against `batchfleet serve`, and against Redis, a gateway and a worker as
separate processes."""

import csv
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest

import repository
from fleet import KINDS, running


@pytest.fixture(scope="session", params=KINDS)
def fleet(request, tmp_path_factory):
    """Running servers on which all models are ready."""
    with running(tmp_path_factory.mktemp(request.param), request.param) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def address(fleet) -> str:
    """`HOST:PORT` of the HTTP port."""
    return fleet.http


@pytest.fixture(scope="session")
def grpc_address(fleet) -> str:
    """`HOST:PORT` of the gRPC port."""
    return fleet.grpc


class Digits(NamedTuple):
    """Held-out handwritten digits."""

    labels: np.ndarray  # [n]
    pixels: np.ndarray  # [n, 64]


@pytest.fixture(scope="session")
def digits() -> Digits:
    with repository.DIGITS.open() as lines:
        rows = list(csv.DictReader(lines))
    labels = np.array([int(row["label"]) for row in rows])
    pixels = [[float(row[f"pixel{n}"]) for n in range(64)] for row in rows]
    return Digits(labels, np.array(pixels, dtype=np.float32))


@pytest.fixture(scope="session")
def expected_digits(digits) -> np.ndarray:
    """The answers of ONNX Runtime in this process to the held-out digits: [n, 10]."""
    model = repository.MODELS / "digits_wide" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": digits.pixels})[0]
