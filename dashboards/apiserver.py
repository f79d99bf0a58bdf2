"""A fake Kubernetes API server for the controller. It stores one ModelFleet and all objects that the
controller writes, and sends watch events. There is no admission and there are no other controllers: a
Deployment always has as many ready replicas as the autoscaler's minimum.
"""

import json
import threading
import urllib.parse
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


def versioned(value, version):
    return {**value, "metadata": {**value.get("metadata", {}), "resourceVersion": version}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = {}
    # All changes as (path, watch event). The change at index i has the resource version i + 2.
    changes = []
    changed = threading.Condition()

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
        parameters = dict(urllib.parse.parse_qsl(query))
        if "watch" in parameters:
            return self.watch(path, int(parameters.get("resourceVersion") or 0))
        with self.changed:
            if path in self.store:
                return self.answer(200, self.store[path])
            items = [value for at, value in self.store.items() if at.startswith(path + "/")]
            version = self.version()
        # Paths of collections end with a plural; no object here has a name that ends with "s".
        if path.endswith("s"):
            return self.answer(200, {"metadata": {"resourceVersion": version}, "items": items})
        self.missing()

    def version(self):
        return str(len(self.changes) + 1)

    def watch(self, path, version):
        """Sends the changes after `version` to the objects below a path, until the client leaves."""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        following = max(version - 1, 0)
        while True:
            with self.changed:
                self.changed.wait_for(lambda: len(self.changes) > following)
                new = self.changes[following:]
            following += len(new)
            events = [event for at, event in new if at.startswith(path + "/")]
            try:
                self.wfile.write("".join(json.dumps(event) + "\n" for event in events).encode())
            except OSError:
                return

    def write(self):
        path = self.path.partition("?")[0]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = path.removesuffix("/status").removesuffix("/scale")
        with self.changed:
            if self.command == "POST":
                path += "/" + body["metadata"].setdefault("name", "event")
            old = self.store.get(path)
            value = merge(old or {}, body) if self.command == "PATCH" else body
            self.put(path, value)
            if "/horizontalpodautoscalers/" in path:
                for at in [at for at in self.store if "/deployments/" in at]:
                    self.put(at, self.store[at])
            value = self.store[path]
        self.answer(200, value)

    def put(self, path, value):
        """Stores an object; a change gets a new version and a watch event, as in the real server."""
        if "/deployments/" in path:
            floor = next((each["spec"].get("minReplicas", 1) for at, each in self.store.items()
                          if "/horizontalpodautoscalers/" in at), 1)
            value = {**value, "spec": {**value["spec"], "replicas": floor},
                     "status": {"readyReplicas": floor}}
        old = self.store.get(path)
        if old is not None and versioned(value, "") == versioned(old, ""):
            return
        self.changes.append((path, {"type": "MODIFIED" if old else "ADDED"}))
        self.store[path] = versioned(value, self.version())
        self.changes[-1][1]["object"] = self.store[path]
        self.changed.notify_all()

    do_POST = do_PUT = do_PATCH = write


def start():
    """Starts the server."""
    Handler.store, Handler.changes = {f"{FLEETS}/echo": FLEET}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def kubeconfig(server):
    """The configuration of clients of this server."""
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "local",
        "clusters": [{"name": "local", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "local", "user": {}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local", "namespace": NAMESPACE}}],
    })
