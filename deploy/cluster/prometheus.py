"""A real Prometheus beside the cluster."""

import json
import pathlib
import socket
import subprocess
import tempfile
import urllib.parse
import urllib.request

from fleets import is_ready
from kube import await_


class Prometheus:
    """Scrapes gateways and controllers of a namespace through the API server. Can be killed and restarted inside the
    `with` block."""

    def __init__(self, namespace):
        self.namespace = namespace

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.proxy = subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
        through = self.proxy.stdout.readline().split()[-1]
        self.config = pathlib.Path(self.folder.name, "prometheus.yaml")
        self.config.write_text(json.dumps({
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s"},
            "scrape_configs": [{"job_name": "batchfleet", "static_configs": self._targets(through)}],
        }))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        self.proxy.kill()
        self.proxy.wait()
        self.folder.cleanup()

    def _targets(self, through):
        """The gateways and controllers, with the labels that a Prometheus in the cluster sets."""
        name = self.namespace.name
        path = f"/api/v1/namespaces/{name}/pods/{{}}:9090/proxy/metrics"
        pods = self.namespace.pods("app.kubernetes.io/component in (gateway, controller)")
        stay = [pod["metadata"]["name"] for pod in pods
                if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
        return [{"targets": [through], "labels": {
            "__metrics_path__": path.format(pod), "instance": pod, "pod": pod, "namespace": name}}
            for pod in stay]

    def start(self):
        """Starts Prometheus and waits until all targets have been scraped."""
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={self.config}", f"--web.listen-address={self.address}",
             f"--storage.tsdb.path={self.folder.name}/data"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await_("Prometheus reaches every pod", self._reaches_all)

    def _reaches_all(self):
        try:
            targets = self._get("targets")["activeTargets"]
        except OSError:
            return False
        return bool(targets) and all(target["health"] == "up" for target in targets)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ask(self, query):
        """The current result of a query: a list of series."""
        return self._get("query", query=query)["result"]

    def _get(self, what, **parameters):
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]
