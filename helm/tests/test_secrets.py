"""`batchfleet-controller secrets`, with the flags of the chart's Job, makes what the pods of the chart
mount: a Redis with TLS, a gateway and a worker run with it."""

import base64
import contextlib
import http.server
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

import chart
import programs
from programs import DIE_WITH_US, eventually, free_port, load

SECRETS = "/api/v1/namespaces/ns/secrets"


@contextlib.contextmanager
def api_server(folder: Path, secrets: dict[str, dict]):
    """An API server that keeps secrets; yields the path of a kubeconfig."""

    class Server(http.server.BaseHTTPRequestHandler):
        def answer(self, status: int, body: dict):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_GET(self):
            secret = secrets.get(self.path.removeprefix(f"{SECRETS}/").split("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                       "message": "not found", "code": 404}
            self.answer(200 if secret else 404, secret or missing)

        def do_POST(self):
            secret = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            secrets[secret["metadata"]["name"]] = secret
            self.answer(201, secret)

        do_PUT = do_POST

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    config = folder / "kubeconfig"
    config.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {}}],
    }))
    try:
        yield config
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make_secrets(config: Path, *settings: str):
    """Runs the Job's container. The name of Redis' Service is one that resolves on this machine."""
    (job,) = [each for each in chart.objects(None, *settings) if each["kind"] == "Job"]
    arguments = chart.pod_of(job)["containers"][0]["args"]
    arguments = ["--redis=localhost" if each.startswith("--redis=") else each for each in arguments]
    command = [chart.PROGRAMS / "batchfleet-controller", *arguments]
    environment = os.environ | {"KUBECONFIG": str(config), "BATCHFLEET_ADMIN_LISTEN": "127.0.0.1:0"}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr


def text(secrets: dict[str, dict], name: str, key: str) -> str:
    return base64.b64decode(secrets[f"localhost-{name}"]["data"][key]).decode()


@pytest.fixture
def made(tmp_path):
    secrets: dict[str, dict] = {}
    with api_server(tmp_path, secrets) as config:
        make_secrets(config, "redis.tls.enabled=true")
        before = json.dumps(secrets)
        make_secrets(config, "redis.tls.enabled=true")
    assert json.dumps(secrets) == before, "the second run has changed a secret"
    return secrets


def test_a_redis_with_tls_serves_the_fleet_and_refuses_clients_without_a_certificate(made, tmp_path):
    setting = "redis.tls.enabled=true"
    users = ("gateway", "worker", "controller")
    acl = programs.users_file(tmp_path, {user: text(made, f"user-{user}", "password") for user in users}, setting)
    for name, place in (("tls", "tls"), ("client-tls", "client")):
        (tmp_path / place).mkdir()
        for key in ("ca.crt", "tls.crt", "tls.key"):
            (tmp_path / place / key).write_text(text(made, name, key))
    port = free_port()
    config = chart.the("ConfigMap", "-redis", setting)["data"]["redis.conf"]
    config = config.replace("/etc/redis", str(tmp_path)).replace("tls-port 6379", f"tls-port {port}")
    (tmp_path / "redis.conf").write_text(config.replace("dir /tmp", f"dir {tmp_path}"))
    redis = subprocess.Popen([*DIE_WITH_US, "redis-server", tmp_path / "redis.conf"], stdout=subprocess.DEVNULL)
    urls = {user: text(made, f"user-{user}", "url").replace(":6379/", f":{port}/") for user in users[:2]}
    assert all(url.startswith("rediss://") and acl.exists() for url in urls.values())
    files = [f"--redis-ca={tmp_path}/client/ca.crt", f"--redis-cert={tmp_path}/client/tls.crt",
             f"--redis-key={tmp_path}/client/tls.key"]
    with programs.fleet(tmp_path, urls, 1, *files) as (gateway, _):
        eventually(lambda: load(gateway, "--duration", "200ms").returncode == 0, "the fleet answers over TLS")
        done = load(gateway, "--duration", "1s")
        assert done.returncode == 0, done.stdout + done.stderr
    bare = ["redis-cli", "--tls", "--cacert", tmp_path / "client/ca.crt", "-h", "localhost", "-p", str(port), "PING"]
    refused = subprocess.run(bare, capture_output=True, text=True, timeout=30)
    assert "PONG" not in refused.stdout and "NOAUTH" not in refused.stdout, refused.stdout
    redis.terminate()
    redis.wait()
