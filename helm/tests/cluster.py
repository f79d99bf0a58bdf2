"""A minimal API server for helm's server-side dry run: API discovery and existing objects."""

import contextlib
import http.server
import json
import threading
from pathlib import Path

import chart

CLUSTER_SCOPED = [
    "APIService", "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
]


def plural(kind: str) -> str:
    name = kind.lower()
    return name[:-1] + "ies" if name.endswith("y") else name + ("es" if name.endswith("s") else "s")


def discovery(path: str) -> dict | None:
    """The discovery document at a path. The server knows the kinds of the chart."""
    kinds: dict[str, set[str]] = {}
    for document in chart.objects(None, "externalMetrics.enabled=true", "gateway.autoscaling.enabled=true"):
        kinds.setdefault(document["apiVersion"], set()).add(document["kind"])
    groups = [version for version in kinds if "/" in version]
    if path == "/version":
        return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "groups": [group(version) for version in groups]}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    resources = [
        {
            "name": plural(kind), "singularName": "", "kind": kind, "verbs": ["get"],
            "namespaced": kind not in CLUSTER_SCOPED,
        }
        for kind in kinds.get(version, ())
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources} if resources else None


def group(version: str) -> dict:
    one = {"groupVersion": version, "version": version.split("/")[1]}
    return {"name": version.split("/")[0], "versions": [one], "preferredVersion": one}


@contextlib.contextmanager
def cluster(folder: Path, existing: dict[str, dict]):
    """Serves existing objects by path; yields the arguments that make helm use this API server."""

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            body = discovery(path) or existing.get(path)
            status = 200 if body else 404
            body = body or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"apiVersion": "v1"} | body).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    config = folder / "kubeconfig"
    address = f"http://127.0.0.1:{server.server_port}"
    config.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": address}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {}}],
    }))
    try:
        # The fake server has no OpenAPI schemas.
        yield ["--dry-run=server", "--disable-openapi-validation", "--kubeconfig", str(config)]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
