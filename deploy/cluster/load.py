"""Load from within the cluster: pods with the gateway's image, whose tools ask the Service."""

import json
import time

from kube import await_


class Load:
    """A load that runs in a pod of its own from `start` on."""

    def __init__(self, namespace, images, name):
        self.namespace, self.images, self.name = namespace, images, name

    def start(self, model, rate, seconds, slo_ms=100):
        """Begins to ask for `model`, so many times a second; returns once the pod runs."""
        tool = (f"batchfleet load --url http://batchfleet --model {model} --rate {rate} --users {2 * rate}"
                f" --duration {seconds}s --warm-up 0s --slo-p99 {slo_ms}ms --json /tmp/report.json")
        # Its status says whether any answer was wrong, which stands in the report as well.
        script = (f"date +%s.%N; {tool} >/tmp/log 2>&1; date +%s.%N;"
                  " cat /tmp/report.json || cat /tmp/log")
        self.seconds = seconds
        self.namespace.apply(pod(self.images, self.name, script))
        phase = lambda: self._pod()["status"].get("phase") in ("Running", "Succeeded")
        await_(f"load pod {self.name} runs", phase)
        return self

    def _pod(self):
        return self.namespace.get("pod", self.name)

    def report(self):
        """What came of it, once it has ended: the report of `batchfleet load`, how long it `took`, and
        when the load `began`: what the tool asks and opens before it measures comes first, and takes
        seconds."""
        ended = lambda: self._pod()["status"].get("phase") in ("Succeeded", "Failed")
        await_(f"load pod {self.name} ends", ended, seconds=self.seconds + 120)
        log = self.namespace.kubectl("logs", self.name)
        self.namespace.kubectl("delete", "pod", self.name, "--wait=false")
        start, end, rest = log.split("\n", 2)
        if not rest.lstrip().startswith("{"):
            raise RuntimeError(f"load {self.name} did not run: {rest[-1000:]}")
        return {"took": float(end) - float(start), "began": float(end) - self.seconds,
                **json.loads(rest)}


def pod(images, name, script):
    """A pod that runs a script in the gateway's image, as restricted as all others."""
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/component": "load"}},
        "spec": {
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "load", "image": images["gateway"], "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", script],
                # Not the last to run: a load that starves measures itself.
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
    """Everything that did not go well, in words; empty if all did."""
    found = [f"{report[key]} {key}" for key in ("wrong", "failed", "dropped_connections")
             if report[key]]
    return found + [f"{count} x {reason}" for reason, count in report["refused"].items()]


def settle(seconds):
    """Lets time pass that is part of a scenario: how long a load lasts, or an outage."""
    time.sleep(seconds)
