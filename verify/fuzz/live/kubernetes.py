"""An API server with one fleet for each model, enough for a controller that scales them."""

import contextlib
import http.server
import json
import threading
import time
from pathlib import Path

from fleet import MODELS

FLEETS = "/apis/batchfleet.dev/v1alpha1/namespaces/ml/modelfleets"
MISSING = ["keda.sh", "monitoring.coreos.com"]


def fleet(model: str) -> dict:
    source = {"persistentVolumeClaim": {"claimName": "models"}}
    return {
        "apiVersion": "batchfleet.dev/v1alpha1", "kind": "ModelFleet",
        "metadata": {"name": model, "namespace": "ml", "uid": f"uid-{model}", "generation": 1, "resourceVersion": "1"},
        "spec": {"model": {"source": source}, "scaling": {"max": 4}},
    }


@contextlib.contextmanager
def api_server(folder: Path):
    """Yields the path of a kubeconfig. The server keeps what is written, and tells no watcher."""
    stored = {f"{FLEETS}/{model}": fleet(model) for model in MODELS}
    lock = threading.Lock()

    class Server(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: dict):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def missing(self):
            self.answer(404, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                              "message": "not found", "reason": "NotFound", "code": 404})

        def do_GET(self):
            path, _, query = self.path.partition("?")
            if any(group in path for group in MISSING):
                return self.missing()
            if "watch=true" in query:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                return time.sleep(30)
            with lock:
                if path in stored:
                    return self.answer(200, stored[path])
                items = [each for at, each in stored.items() if at.rsplit("/", 1)[0] == path]
            if items or path.endswith("s"):
                return self.answer(200, {"metadata": {"resourceVersion": "1"}, "items": items})
            return self.missing()

        def write(self):
            path, _, _ = self.path.partition("?")
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                if path.endswith(("/status", "/scale")):
                    path = path.rsplit("/", 1)[0]
                    body = stored.get(path, {}) | ({"status": body["status"]} if "status" in body else {})
                elif self.command == "POST":
                    path = f"{path}/{body['metadata'].get('name', time.monotonic_ns())}"
                body.setdefault("metadata", {}).setdefault("uid", f"uid-{len(stored)}")
                body["metadata"]["resourceVersion"] = str(time.monotonic_ns())
                if "/events" not in path:
                    stored[path] = body
            self.answer(200, body)

        do_POST = do_PUT = do_PATCH = write

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = folder / "kubeconfig"
    config.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x", "namespace": "ml"}}],
        "users": [{"name": "x", "user": {}}],
    }))
    try:
        yield config
    finally:
        server.shutdown()
        server.server_close()
