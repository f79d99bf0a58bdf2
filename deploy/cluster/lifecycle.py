"""Scenarios of the life of a release: rollback, installation with new passwords, and the end of its namespace."""

import time

from fleets import ready, workers
from kube import await_, run
from load import settle, troubles

API = "v1beta1.external.metrics.k8s.io"


def rolled_back(stage):
    """An upgrade is rolled back under load: every request gets a right answer."""
    stage.fleet("returned", {"min": 2, "max": 2}, row_ms=1)
    load = stage.load("returned", 50, 75)
    stage.upgrade("--set", "gateway.podLabels.exchanged=again,controller.podLabels.exchanged=again")
    stage.namespace.helm("rollback", "batchfleet", "--wait")
    left = stage.namespace.pods("exchanged=again")
    report = load.report()
    stage.drop("returned")
    wrong = troubles(report) + (["the rollback left pods of the upgrade"] if running(left) else [])
    return f"{report['right']} of {report['sent']} right", wrong


def running(pods):
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def reinstalled(stage):
    """The release is uninstalled, and installed again with new passwords. The workers of a fleet that stayed
    connect again, without a restart, once the kubelet has updated their files."""
    namespace, name = stage.namespace, "stayed"
    stage.fleet(name, {"min": 1, "max": 2}, row_ms=1)
    before = namespace.pods(workers(name))[0]["metadata"]["name"]
    namespace.helm("uninstall", "batchfleet", "--wait")
    secrets = [secret["metadata"]["name"] for secret in namespace.get("secrets")["items"]]
    namespace.kubectl("delete", "secret", *(secret for secret in secrets if "-redis-user-" in secret))
    namespace.helm("install", *stage.install(stage.chart), "--wait")
    start, seen = time.monotonic(), []

    def is_served():
        status = namespace.get("modelfleet", name).get("status", {})
        conditions = {each["type"]: each for each in status.get("conditions", [])}
        if status.get("reason") not in seen:
            seen.append(status.get("reason"))
        is_current = status.get("observedGeneration") is not None and conditions["MetricsStale"]["status"] == "False"
        return is_current and conditions["Ready"]["status"] == "True"

    await_("the worker serves again", is_served, seconds=240)
    took = time.monotonic() - start
    report = stage.load(name, 20, 10).report()
    after = [pod["metadata"]["name"] for pod in namespace.pods(workers(name))]
    wrong = troubles(report) + ([] if before in after else [f"the pod {before} was replaced by {after}"])
    await_("one worker", lambda: ready(namespace, name, len(after)))
    stage.drop(name)
    return f"serves again after {took:.0f} s ({', '.join(map(str, seen))}); {report['right']} of {report['sent']} right", wrong


def namespace_deleted(stage):
    """A namespace deleted without `helm uninstall` goes away, and no APIService stays behind."""
    wrong, start = [], time.monotonic()
    run("kubectl", "delete", "namespace", stage.namespace.name, timeout=300)
    took = time.monotonic() - start
    if run("kubectl", "get", "apiservice", API, "--ignore-not-found"):
        wrong.append(f"the APIService {API} is left")
    settle(1)
    return f"gone after {took:.0f} s", wrong
