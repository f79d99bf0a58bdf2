"""Load from inside the cluster: pods with the gateway's image run `batchfleet load` on the Service."""

import json
import time

from kube import await_


class Load:
    """A load that runs in its own pod."""

    def __init__(self, namespace, images, name):
        self.namespace, self.images, self.name = namespace, images, name

    def start(self, model, rate, seconds, slo_ms=100):
        """Starts a load of `rate` requests per second on `model`; returns once the pod runs."""
        tool = (f"batchfleet load --url http://batchfleet --model {model} --rate {rate} --users {2 * rate}"
                f" --duration {seconds}s --warm-up 0s --slo-p99 {slo_ms}ms --json /tmp/report.json")
        # The tool's exit status is ignored: the report has the number of wrong answers.
        script = (f"date +%s.%N; {tool} >/tmp/log 2>&1 & echo $! >/tmp/id; wait; date +%s.%N;"
                  " cat /tmp/report.json || cat /tmp/log")
        self.seconds = seconds
        self.namespace.apply(pod(self.images, self.name, script))
        phase = lambda: self._pod()["status"].get("phase") in ("Running", "Succeeded")
        await_(f"load pod {self.name} runs", phase)
        return self

    def _pod(self):
        return self.namespace.get("pod", self.name)

    def stop(self):
        """Ends the load early and returns its report."""
        self.namespace.kubectl("exec", self.name, "--", "/bin/sh", "-c", "kill -INT $(cat /tmp/id)")
        return self.report()

    def report(self):
        """Waits for the end and returns the report of `batchfleet load`, with two more fields: how long
        the tool `took`, and when the load `began`. The tool spends the first seconds on metadata and
        connections."""
        ended = lambda: self._pod()["status"].get("phase") in ("Succeeded", "Failed")
        await_(f"load pod {self.name} ends", ended, seconds=self.seconds + 120)
        log = self.namespace.kubectl("logs", self.name)
        self.namespace.kubectl("delete", "pod", self.name, "--wait=false")
        start, end, rest = log.split("\n", 2)
        if not rest.lstrip().startswith("{"):
            raise RuntimeError(f"load {self.name} did not run: {rest[-1000:]}")
        report = json.loads(rest)
        return {"took": float(end) - float(start), "began": float(end) - report["seconds"], **report}


def pod(images, name, script):
    """A pod that runs a script in the gateway's image, under the restricted pod security standard."""
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/component": "load"}},
        "spec": {
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "load", "image": images["gateway"], "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", script],
                # Enough CPU: a starved load generator would measure its own delays.
                "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}},
                "securityContext": {"allowPrivilegeEscalation": False,
                                    "readOnlyRootFilesystem": True,
                                    "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
            }],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }


def troubles(report):
    """The failures in a report, as text; empty if there are none."""
    found = [f"{report[key]} {key}" for key in ("wrong", "failed", "dropped_connections")
             if report[key]]
    return found + [f"{count} x {reason}" for reason, count in report["refused"].items()]


def settle(seconds):
    """Waits for a duration that belongs to the scenario, of a load or an outage."""
    time.sleep(seconds)
