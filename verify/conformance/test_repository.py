"""A repository with models that cannot be served: the others are, and clients learn the reasons."""

from pathlib import Path

import pytest
import tritonclient.http as triton

import repository
from fleet import KINDS, eventually, running
from wire import ask


def write(folder: Path) -> list[str]:
    """One good model, and one of each kind that cannot be served."""
    repository.echo(folder / "good", [("FP32", "4")])
    (folder / "empty" / "7").mkdir(parents=True)
    (folder / "empty" / "7" / "model.onnx").touch()
    (folder / "config").mkdir()
    (folder / "config" / "config.pbtxt").write_text("max_batch_size 1")
    (folder / "my model" / "1").mkdir(parents=True)
    return ["good"]


@pytest.fixture(scope="module", params=KINDS)
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with running(folder, request.param, write=write) as server:
        yield server


def test_the_index_gives_the_reason_for_each_model_that_cannot_be_served(server):
    with triton.InferenceServerClient(server.http) as client:
        index = {entry["name"]: entry for entry in client.get_model_repository_index()}
        assert client.is_model_ready("good")
        assert not client.is_model_ready("empty")
    assert set(index) == {"good", "empty", "config"}
    assert index["good"]["state"] == "READY"
    assert (index["empty"]["state"], index["empty"]["version"]) == ("UNAVAILABLE", "7")
    assert "7/model.onnx is empty" in index["empty"]["reason"]
    assert (index["config"]["state"], index["config"]["version"]) == ("UNAVAILABLE", "")
    assert "line 1" in index["config"]["reason"]
    ready = ask(server.http, "POST", "/v2/repository/index", b'{"ready": true}')
    assert [entry["name"] for entry in ready.json()] == ["good"]


@pytest.mark.parametrize(
    "method, path",
    [("GET", "ready"), ("POST", "infer"), ("GET", "versions/7/ready"), ("GET", "config")],
)
def test_a_model_that_cannot_be_served_is_unavailable_with_the_reason(server, method, path):
    answer = ask(server.http, method, f"/v2/models/empty/{path}", b"{}" if method == "POST" else b"")
    assert answer.status == 503
    assert answer.code == "model_unavailable"
    assert "7/model.onnx is empty" in answer.json()["error"]


def test_only_strict_readiness_depends_on_every_model(server):
    assert ask(server.http, "GET", "/v2/health/ready").status == 200
    address = server.start_front("--strict-readiness").address("http")

    def names_a_model() -> bool:
        answer = ask(address, "GET", "/v2/health/ready")
        return answer.status == 503 and b"is not ready" in answer.body

    eventually(names_a_model, "the server is not ready because of a model")


def test_a_folder_with_another_name_is_left_out_with_one_warning(server):
    warnings = [
        [record["level"] for record in program.records() if record.get("name") == "my model"]
        for program in server.programs
    ]
    assert ["WARN"] in warnings
    assert all(levels in ([], ["WARN"]) for levels in warnings)
