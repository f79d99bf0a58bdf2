"""The cluster under test: kubectl, helm, and a recorder of changes."""

import json
import os
import subprocess
import threading
import time

GATEWAYS = "app.kubernetes.io/component=gateway"
# The setting of the chart for a cluster whose external metrics another program serves, or none.
NO_METRIC = "externalMetrics.enabled=false"


def run(*command, stdin=None, timeout=300, environment=None):
    """The output of a program; raises an error with the end of its stderr if it fails."""
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, env=variables)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])}: {done.stderr.strip()[-2000:]}")
    return done.stdout


class Namespace:
    """A namespace of the cluster and the commands for it."""

    def __init__(self, name):
        self.name = name

    def kubectl(self, *command, **options):
        return run("kubectl", "--namespace", self.name, *command, **options)

    def helm(self, *command, **options):
        return run("helm", "--namespace", self.name, *command, **options)

    def get(self, *what):
        return json.loads(self.kubectl("get", *what, "--output", "json"))

    def apply(self, *objects):
        every = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--filename", "-", stdin=json.dumps(every))

    def pods(self, selector):
        return self.get("pods", "--selector", selector)["items"]

    def metrics(self, selector):
        """Metrics of the pods' admin ports: maps `name{labels}` to the sum over the pods."""
        sums = {}
        for pod in self.pods(selector):
            if pod["status"].get("phase") != "Running":
                continue
            path = f"/api/v1/namespaces/{self.name}/pods/{pod['metadata']['name']}:9090/proxy/metrics"
            for line in self.kubectl("get", "--raw", path).splitlines():
                if line and not line.startswith("#"):
                    name, value = line.rsplit(" ", 1)
                    sums[name] = sums.get(name, 0.0) + float(value)
        return sums


def await_(what, condition, seconds=120, every=0.5):
    """Waits for the first truthy value of `condition` and returns it."""
    end = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise RuntimeError(f"not within {seconds} s: {what}")
        # Polls, because conditions cover more than one object.
        time.sleep(every)


class Recorder:
    """Records every change of the given objects with its time, inside a `with` block."""

    def __init__(self, namespace, *what):
        self.command = ["kubectl", "--namespace", namespace.name, "get", *what, "--output", "json",
                        "--watch", "--output-watch-events"]
        self.changes = []

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.thread.join()
        self.process.wait()

    def _read(self):
        for line in self.process.stdout:
            event = json.loads(line)
            self.changes.append((time.time(), event["type"], event["object"]))

    def first(self, holds, since=0.0):
        """Time of the first change for which `holds` is true; None if there is none."""
        return next((at for at, _, thing in self.changes if at >= since and holds(thing)), None)

    def values(self, of):
        return [of(thing) for _, _, thing in self.changes]
