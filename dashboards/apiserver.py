"""As much of a Kubernetes API server as the controller needs to turn: it keeps one ModelFleet, and
whatever else is written to it. No admission, no watch events, no other controllers: a Deployment has
as many ready workers as its autoscaler's floor.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAMESPACE = "local"
FLEETS = f"/apis/batchfleet.dev/v1alpha1/namespaces/{NAMESPACE}/modelfleets"
FLEET = {
    "apiVersion": "batchfleet.dev/v1alpha1",
    "kind": "ModelFleet",
    "metadata": {"name": "echo", "namespace": NAMESPACE, "uid": "1", "generation": 1, "resourceVersion": "1"},
    "spec": {
        "model": {"name": "echo", "source": {"persistentVolumeClaim": {"claimName": "models"}}},
        "scaling": {"max": 4},
        "slo": {"p99Ms": 500},
    },
}


def merge(old, new):
    """JSON merge patch."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    merged = {**old, **{key: merge(old.get(key), value) for key, value in new.items()}}
    return {key: value for key, value in merged.items() if value is not None}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = {}
    lock = threading.Lock()
    version = 1
    ended = threading.Event()

    def log_message(self, *_):
        pass

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def missing(self):
        self.answer(404, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                          "message": "not found", "reason": "NotFound", "code": 404})

    def do_GET(self):
        path, _, query = self.path.partition("?")
        path = path.removesuffix("/status").removesuffix("/scale")
        if "watch=" in query:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("connection", "close")
            self.end_headers()
            # Nothing is told: each fleet has its turn by the clock.
            self.ended.wait()
            self.close_connection = True
            return
        with self.lock:
            if path in self.store:
                return self.answer(200, self.store[path])
            items = [value for at, value in self.store.items() if at.startswith(path + "/")]
        # The names of kinds are plurals; those of objects here are not.
        if path.endswith("s"):
            return self.answer(200, {"metadata": {"resourceVersion": str(self.version)}, "items": items})
        self.missing()

    def write(self):
        path = self.path.partition("?")[0]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = path.removesuffix("/status").removesuffix("/scale")
        with self.lock:
            if self.command == "POST":
                path += "/" + body["metadata"].setdefault("name", "event")
            Handler.version += 1
            stands = self.store.get(path, {})
            value = merge(stands, body) if self.command == "PATCH" else body
            value["metadata"] = {**value.get("metadata", {}), "resourceVersion": str(self.version)}
            if "/deployments/" in path:
                floor = next((each["spec"].get("minReplicas", 1) for at, each in self.store.items()
                              if "/horizontalpodautoscalers/" in at), 1)
                value["spec"]["replicas"] = floor
                value["status"] = {"readyReplicas": floor}
            self.store[path] = value
        self.answer(200, value)

    do_POST = do_PUT = do_PATCH = write


def start():
    """The server, serving."""
    Handler.store = {f"{FLEETS}/echo": FLEET}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def kubeconfig(server):
    """How kubectl and our controller find it."""
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "local",
        "clusters": [{"name": "local", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "local", "user": {}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local", "namespace": NAMESPACE}}],
    })
