"""Models that clients load and unload, with Triton's clients for HTTP and gRPC."""

import contextlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import repository
from fleet import eventually, running

VALUES = np.array([[1.5, -2.0, 3.25]], dtype=np.float32)
FLAGS = ("--model-control", "explicit", "--load-model", "kept")
BATCH_MS = 150
OPERATIONS = 15  # of each of the threads that load and unload
THREADS = 4


def write(folder: Path) -> list[str]:
    """Models to load, and `kept`, which the server loads at its start."""
    for name in ("kept", "plain", "reloaded", "contended"):
        repository.echo(folder / name, [("FP32", "-1")])
    repository.echo(folder / "slow", [("FP32", "-1")], more=repository.parameter("batch_ms", BATCH_MS))
    repository.echo(folder / "versions", [("FP32", "-1")])
    (folder / "versions" / "1").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "config.pbtxt").write_text("max_batch_size 1")
    return ["kept"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model-control")
    with running(folder, "standalone", settings=FLAGS, write=write) as server:
        yield server


class Client:
    """One of Triton's clients."""

    def __init__(self, server, protocol: str):
        self.module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
        self.client = self.module.InferenceServerClient(getattr(server, protocol))

    def infer(self, model: str, version: str = "") -> None:
        """Asks the model, and compares the answer."""
        tensor = self.module.InferInput("INPUT0", list(VALUES.shape), "FP32")
        tensor.set_data_from_numpy(VALUES)
        answer = self.client.infer(model, [tensor], model_version=version)
        assert np.array_equal(answer.as_numpy("OUTPUT0"), VALUES)

    def index(self) -> dict[str, tuple[str, str, str]]:
        """Version, state and reason of each model that has at most one version in the index."""
        index = self.client.get_model_repository_index()
        if self.module is tritonclient.http:
            return {m["name"]: (m["version"], m["state"], m["reason"]) for m in index}
        return {m.name: (m.version, m.state, m.reason) for m in index.models}

    def error(self, call: str, *arguments, **options) -> str:
        """The message of a call that must fail."""
        with pytest.raises(InferenceServerException) as raised:
            getattr(self.client, call)(*arguments, **options)
        return raised.value.message()

    def infer_error(self, model: str, version: str = "") -> str:
        with pytest.raises(InferenceServerException) as raised:
            self.infer(model, version)
        return raised.value.message()


@pytest.fixture(params=["http", "grpc"])
def client(request, server):
    client = Client(server, request.param)
    yield client
    client.client.close()


@contextlib.contextmanager
def steady_load(server, model: str, clients: int = 4):
    """Asks the model all the time; fails if any request fails. Yields the number of answers so far."""
    stop, answered = threading.Event(), [0] * clients

    def ask(number: int) -> None:
        with contextlib.closing(Client(server, "http").client) as connection:
            client = Client.__new__(Client)
            client.module, client.client = tritonclient.http, connection
            while not stop.is_set():
                client.infer(model)
                answered[number] += 1

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask, number) for number in range(clients)]
        try:
            yield lambda: sum(answered)
        finally:
            stop.set()
        for task in as_completed(asking):
            task.result()


def test_only_the_wanted_models_are_loaded_at_the_start(client):
    assert client.client.is_server_ready()
    client.infer("kept")
    index = client.index()
    assert index["kept"] == ("1", "READY", "")
    assert index["broken"] == ("", "UNAVAILABLE", "not loaded")
    assert not client.client.is_model_ready("broken")
    assert not client.client.is_model_ready("versions", "1")
    assert "Request for unknown model: 'versions' is not found" in client.infer_error("versions")


def test_a_model_is_ready_once_it_is_loaded_and_gone_once_it_is_unloaded(client, server):
    def series() -> bool:
        names = [*server.metrics("batchfleet_"), *server.metrics("nv_")]
        return any('model="plain"' in name and "_usage_" not in name for name in names)

    for _ in range(3):
        client.client.load_model("plain")
        assert client.client.is_model_ready("plain")
        assert client.client.is_model_ready("plain", "1")
        assert client.index()["plain"] == ("1", "READY", "")
        client.infer("plain")
        assert series()
        client.client.unload_model("plain")
        assert not client.client.is_model_ready("plain")
        assert client.index()["plain"] == ("1", "UNAVAILABLE", "unloaded")
        assert "'plain' has no available versions" in client.infer_error("plain")
        error = client.infer_error("plain", "1")
        assert "Request for unknown model: 'plain' version 1 is not at ready state" in error
        assert not series()
    assert client.client.is_server_ready()
    client.infer("kept")


def test_a_missing_model_gets_the_words_of_triton_and_may_be_unloaded(client):
    error = client.error("load_model", "unknown_model")
    assert "failed to load 'unknown_model', failed to poll from model repository" in error
    client.client.unload_model("unknown_model")
    assert "failed to load '.hidden'" in client.error("load_model", ".hidden")


def test_a_broken_model_is_refused_with_the_reason_and_nothing_else_changes(client, server):
    error = client.error("load_model", "broken")
    assert "load failed for model 'broken'" in error and "line 1" in error
    version, state, reason = client.index()["broken"]
    assert (version, state) == ("", "UNAVAILABLE") and "line 1" in reason
    assert "line 1" in client.infer_error("broken")
    assert client.client.is_server_ready()

    config = server.repository / "kept" / "config.pbtxt"
    good = config.read_text()
    config.write_text(good + "max_batch_size: many")
    try:
        assert "load failed for model 'kept'" in client.error("load_model", "kept")
    finally:
        config.write_text(good)
    client.infer("kept")
    assert client.index()["kept"] == ("1", "READY", "")


def test_parameters_that_would_change_the_model_are_refused(client):
    error = client.error("load_model", "plain", config="{}", files={"file:1/model.onnx": b"x"})
    assert "is loaded from its folder" in error
    client.client.unload_model("plain", unload_dependents=True)


def test_a_reload_under_load_loses_no_request(client, server):
    """Each reload changes the config, so that requests of the old and of the new one do not mix."""
    folder = server.repository / "reloaded"
    client.client.load_model("reloaded")
    with steady_load(server, "reloaded") as answered:
        for rows in (2, 32, 4, 16):
            eventually(lambda before=answered(): answered() > before + 20, "requests are answered")
            shutil.rmtree(folder)
            repository.echo(folder, [("FP32", "-1")], max_batch=rows)
            client.client.load_model("reloaded")
            config = client.client.get_model_config("reloaded")
            config = config if isinstance(config, dict) else {"max_batch_size": config.config.max_batch_size}
            assert config["max_batch_size"] == rows
    client.client.unload_model("reloaded")


def test_a_reload_replaces_the_version(client, server):
    folder = server.repository / "versions"
    client.client.load_model("versions")
    with steady_load(server, "versions"):
        (folder / "2").mkdir()
        client.client.load_model("versions")
        assert client.client.is_model_ready("versions", "2")
        assert not client.client.is_model_ready("versions", "1")
        client.infer("versions", "2")
        assert "version 1 is not at ready state" in client.infer_error("versions", "1")
    (folder / "2").rmdir()
    client.client.load_model("versions")
    client.infer("versions", "1")
    client.client.unload_model("versions")


def test_an_unload_waits_for_the_answers_to_requests(client, server):
    client.client.load_model("slow")
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client_of(server).infer, "slow") for _ in range(8)]
        in_flight = 'batchfleet_gateway_in_flight{model="slow"}'
        eventually(lambda: server.metrics(in_flight).get(in_flight) == 8, "all requests wait")
        client.client.unload_model("slow")
        assert all(task.done() or task.result() is None for task in asked)
        for task in asked:
            task.result()


def client_of(server) -> Client:
    return Client(server, "http")


def test_loads_and_unloads_of_one_model_come_one_after_another(client, server):
    def operate(number: int) -> None:
        own = client_of(server)
        for at in range(OPERATIONS):
            call = own.client.load_model if (number + at) % 2 else own.client.unload_model
            call("contended")

    with ThreadPoolExecutor(THREADS) as pool:
        for task in [pool.submit(operate, number) for number in range(THREADS)]:
            task.result()
    client.client.load_model("contended")
    client.infer("contended")
    client.client.unload_model("contended")
    assert not client.client.is_model_ready("contended")


def test_all_models_may_be_loaded_at_the_start(tmp_path):
    flags = ("--model-control-mode", "explicit", "--load-model", "*")
    with running(tmp_path, "standalone", settings=flags, write=write) as server:
        client = client_of(server)
        index = client.index()
        assert {name for name, (_, state, _) in index.items() if state == "READY"} == {
            "kept", "plain", "reloaded", "contended", "slow", "versions",
        }
        assert "line 1" in index["broken"][2]
