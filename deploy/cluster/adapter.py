"""The part of prometheus-adapter that a fleet's autoscaler needs. Runs the query of the chart's example
against a real Prometheus. If Prometheus fails, the answer is an error, as with the real adapter.
"""

import contextlib
import http.server
import json
import pathlib
import re
import socket
import ssl
import tempfile
import threading
import time
import urllib.parse

from kube import run

RULES = pathlib.Path(__file__).resolve().parents[2] / "helm/batchfleet/examples/prometheus-adapter.yaml"
API = "external.metrics.k8s.io/v1beta1"


class Adapter:
    """Serves `external.metrics.k8s.io` from a Prometheus inside a `with` block."""

    def __init__(self, namespace, prometheus):
        self.namespace, self.prometheus = namespace, prometheus
        external = RULES.read_text().split("custom:")[0]
        self.rule = re.search(r"metricsQuery: (.+)", external).group(1)

    def __enter__(self):
        adapter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                status, body = adapter.answer(urllib.parse.urlsplit(self.path))
                body = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        address = cluster_facing_address(self.namespace)
        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        self.server.socket = tls().wrap_socket(self.server.socket, server_side=True,
                                               do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.registered = registered(self.namespace, *self.server.server_address)
        self.registered.__enter__()
        return self

    def __exit__(self, *error):
        self.registered.__exit__(*error)
        self.server.shutdown()
        self.server.server_close()

    def answer(self, url):
        root, _, metric = url.path.rpartition("/")
        if url.path == f"/apis/{API}":
            return 200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API,
                         "resources": []}
        if root != f"/apis/{API}/namespaces/{self.namespace.name}":
            return refusal(404, "NotFound", f"nothing at {url.path}")
        try:
            series = self.prometheus.ask(self.query(metric, url.query))
        except OSError:
            return refusal(500, "InternalError", "unable to fetch metrics")
        return 200, {"kind": "ExternalMetricValueList", "apiVersion": API, "metadata": {}, "items": [
            {"metricName": metric, "metricLabels": each["metric"], "timestamp": stamp(each["value"][0]),
             "value": each["value"][1]} for each in series]}

    def query(self, metric, question):
        (selector,) = urllib.parse.parse_qs(question)["labelSelector"]
        labels = [label.split("=") for label in [f"namespace={self.namespace.name}", *selector.split(",")]]
        matchers = ",".join(f'{name}="{value}"' for name, value in labels)
        return self.rule.replace("<<.Series>>", metric).replace("<<.LabelMatchers>>", matchers)


def refusal(code, reason, message):
    return code, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                  "message": message, "reason": reason, "code": code}


def stamp(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def tls():
    """A self-signed certificate; the registration sets `insecureSkipTLSVerify`."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = f"{folder}/certificate", f"{folder}/key"
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=adapter", "-keyout", key, "-out", certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context


def cluster_facing_address(namespace):
    """This machine's address on the route to the API server, which must be able to connect back."""
    slices = namespace.get("endpointslices", "--namespace", "default",
                           "--selector", "kubernetes.io/service-name=kubernetes")
    server = slices["items"][0]["endpoints"][0]["addresses"][0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((server, 443))  # Sends nothing: only selects the route.
        return probe.getsockname()[0]


@contextlib.contextmanager
def registered(namespace, address, port):
    """Registers the provider of external metrics until the `with` block ends."""
    objects = registration(namespace.name, address, port)
    namespace.apply(*objects)
    try:
        yield
    finally:
        # Removes the API first: Kubernetes deletes no namespace while a registered API is unavailable.
        for thing in reversed(objects):
            namespace.kubectl("delete", "--filename", "-", stdin=json.dumps(thing))


def registration(namespace, address, port):
    """Registers an address as the provider of external metrics and lets autoscalers read them."""
    name = "prometheus-adapter"
    rights = f"{namespace}-{name}"
    group, version = API.split("/")
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": rights}
    autoscalers = {"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler",
                   "namespace": "kube-system"}
    return [
        {"apiVersion": "v1", "kind": "Service",
         "metadata": {"name": name, "namespace": namespace},
         "spec": {"ports": [{"port": 443}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
         "metadata": {"name": name, "namespace": namespace,
                      "labels": {"kubernetes.io/service-name": name}},
         "addressType": "IPv4", "ports": [{"port": port}],
         "endpoints": [{"addresses": [address]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
         "metadata": {"name": rights},
         "rules": [{"apiGroups": [group], "resources": ["*"], "verbs": ["get", "list"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
         "metadata": {"name": rights}, "roleRef": role, "subjects": [autoscalers]},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
         "metadata": {"name": f"{version}.{group}"},
         "spec": {"group": group, "version": version, "groupPriorityMinimum": 100,
                  "versionPriority": 100, "insecureSkipTLSVerify": True,
                  "service": {"name": name, "namespace": namespace}}},
    ]
