"""Runs the scenarios on a real Kubernetes cluster and prints their results.

Needs KUBECONFIG, kubectl, helm, and a cluster that has the images of `make images` with the tag TAG
and the Redis image REDIS_IMAGE. OUTAGE_SECONDS is the length of controller and Prometheus outages, and
VALUES is a file with further values of the chart. ADAPTER=1, KEDA=1
and OPERATOR=1 also run the real prometheus-adapter, KEDA and prometheus-operator: see addons.py.
"""

import os
import sys
import time

import scenarios
from kube import Namespace, run

NAMESPACE = "batchfleet-test"


def main(names):
    if not os.environ.get("KUBECONFIG"):
        print("KUBECONFIG is not set: nothing was tested", file=sys.stderr)
        return 2
    tag = os.environ.get("TAG", "dev")
    images = {name: f"batchfleet/{name}:{tag}" for name in ("gateway", "controller", "worker")}
    images["redis"] = os.environ.get("REDIS_IMAGE", "docker.io/library/redis:7.2")
    unknown = set(names) - {scenario.__name__ for scenario in scenarios.ALL}
    if unknown:
        print(f"no such scenario: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    run("kubectl", "create", "namespace", NAMESPACE)
    run("kubectl", "label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    outage_seconds = int(os.environ.get("OUTAGE_SECONDS", "300"))
    stage = scenarios.Stage(Namespace(NAMESPACE), images, outage_seconds)
    # All other scenarios need the installation.
    chosen = [each for each in scenarios.ALL if not names or each.__name__ in names or each is scenarios.install]
    passed = []
    try:
        for scenario in chosen:
            passed.append(passes(scenario, stage))
    finally:
        stage.namespace.helm("uninstall", "batchfleet", "--ignore-not-found")
        run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", timeout=600)
    failed, left_out = passed.count(False), passed.count(None)
    print(f"{passed.count(True)} of {len(chosen)} scenarios passed, {failed} failed, {left_out} not run")
    return 1 if failed else 0


def passes(scenario, stage):
    """Runs a scenario and prints its result; returns whether it passed, None if it was not run."""
    start = time.monotonic()
    try:
        summary, wrong = scenario(stage)
    except Exception as error:  # A scenario that raises has failed; the next ones still run.
        summary, wrong = "aborted", [str(error)]
    took = time.monotonic() - start
    result = "FAILED" if wrong else "not run" if wrong is None else "passed"
    print(f"{result:8}{scenario.__name__:16}{took:5.0f} s  {summary}", flush=True)
    for trouble in wrong or []:
        print(f"        {trouble}", flush=True)
    return None if wrong is None else not wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
