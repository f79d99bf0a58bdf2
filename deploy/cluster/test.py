"""Runs the scenarios on a real Kubernetes cluster and prints their results.

Needs KUBECONFIG, kubectl, helm, and a cluster that has the images of `make images` with the tag TAG
and the Redis image REDIS_IMAGE. OUTAGE_SECONDS is the length of controller and Prometheus outages, and
VALUES is a file with further values of the chart. ADAPTER=1, KEDA=1, OPERATOR=1 and GRAFANA=1 also run the
real prometheus-adapter, KEDA, prometheus-operator and Grafana: see addons.py and grafana.py. Arguments are
names of scenarios; without, all run.
"""

import concurrent.futures
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
    unknown = set(names) - {scenario.__name__ for group in scenarios.ALL for scenario in group}
    if unknown:
        print(f"no such scenario: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    run("kubectl", "create", "namespace", NAMESPACE)
    run("kubectl", "label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    outage_seconds = int(os.environ.get("OUTAGE_SECONDS", "300"))
    stage = scenarios.Stage(Namespace(NAMESPACE), images, outage_seconds)
    # All other scenarios need the installation.
    is_chosen = lambda scenario: not names or scenario.__name__ in names or scenario is scenarios.install
    passed = []
    try:
        for group in scenarios.ALL:
            passed += together([scenario for scenario in group if is_chosen(scenario)], stage)
    finally:
        stage.namespace.helm("uninstall", "batchfleet", "--ignore-not-found")
        run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", timeout=600)
    failed, left_out = passed.count(False), passed.count(None)
    print(f"{passed.count(True)} of {len(passed)} scenarios passed, {failed} failed, {left_out} not run")
    return 1 if failed else 0


def together(group, stage):
    """Runs the first scenario of a group, and meanwhile the others one after another."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as beside:
        first = [beside.submit(passes, scenario, stage) for scenario in group[:1]]
        others = [passes(scenario, stage) for scenario in group[1:]]
        return [each.result() for each in first] + others


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
