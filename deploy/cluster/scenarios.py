"""Scenarios for a real cluster. Each returns a summary and the list of broken promises."""

import itertools
import os
import pathlib
import re
import signal
import tempfile
import time

from adapter import Adapter
from addons import real_adapter, real_keda, real_operator
from broken import broken, changed_by_hand, fleet_deleted, second_fleet, without_metric
from fleets import fleet, is_ready, ready, workers
from gitops import definition_upgraded, rendered
from grafana import real_grafana
from kube import GATEWAYS, NO_METRIC, Recorder, await_, run
from lifecycle import model_users, namespace_deleted, reinstalled, rolled_back
from load import Load, pod, settle, troubles
from prometheus import Prometheus

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Stage:
    """The installation and helpers that scenarios share."""

    chart = ROOT / "helm/batchfleet"

    def __init__(self, namespace, images, outage_seconds):
        self.namespace, self.images = namespace, images
        self.outage_seconds = outage_seconds
        self.loads = itertools.count(1)
        self.settings = ()

    def install(self, chart):
        tag = self.images["gateway"].rsplit(":", 1)[1]
        more = ["--values", os.environ["VALUES"]] if os.environ.get("VALUES") else []
        return ["batchfleet", str(chart), "--values", str(ROOT / "deploy/cluster/values.yaml"), *more,
                "--set", f"images.tag={tag}", "--set", f"images.redis={self.images['redis']}"]

    def upgrade(self, *settings):
        """Upgrades the installation to the values of `make test-cluster` and these settings, and waits until all
        pods are ready. Does nothing if the installation has these settings already."""
        if settings != self.settings:
            options = [each for setting in settings for each in ("--set", setting)]
            self.namespace.helm("upgrade", *self.install(self.chart), *options, "--wait")
            self.settings = settings

    def load(self, model, rate, seconds):
        name = f"load-{next(self.loads)}"
        return Load(self.namespace, self.images, name).start(model, rate, seconds)

    def fleet(self, name, scaling, **more):
        """Applies a fleet and waits until its minimum of workers is ready."""
        self.namespace.apply(fleet(self.images, name, scaling, **more))
        least = scaling["min"]
        await_(f"{least} workers of {name}", lambda: ready(self.namespace, name, least))

    def drop(self, name):
        self.namespace.kubectl("delete", "modelfleet", name)
        await_(f"no worker of {name}", lambda: not self.namespace.pods(workers(name)))

    def ran_again(self):
        """Requests that were sent or run more than once."""
        again = re.compile(r"batchfleet_(gateway_resubmissions|worker_reclaimed\w*)_total")
        found = {**self.namespace.metrics(GATEWAYS),
                 **self.namespace.metrics("app.kubernetes.io/component=worker")}
        return sum(value for name, value in found.items() if again.match(name))

    def reads(self, name):
        """Whether the autoscaler of a fleet gets its metric."""
        return any(map(is_active, self.namespace.get("hpa", "--field-selector", f"metadata.name={name}")["items"]))


def is_active(autoscaler):
    conditions = autoscaler.get("status", {}).get("conditions", [])
    return any(c["type"] == "ScalingActive" and c["status"] == "True" for c in conditions)


def install(stage):
    """Measures from `helm install` to the first right answer through the Service."""
    ask = ("until batchfleet load --url http://batchfleet --model echo --users 1 --duration 0.2s"
           " --warm-up 0s >/tmp/log 2>&1; do sleep 0.2; done; date +%s.%N")
    stage.namespace.apply(pod(stage.images, "first", ask))
    start = time.time()
    stage.namespace.helm("install", *stage.install(stage.chart))
    done = lambda: stage.namespace.get("pod", "first")["status"].get("phase") == "Succeeded"
    await_("a right answer", done, seconds=300)
    took = float(stage.namespace.kubectl("logs", "first")) - start
    stage.namespace.kubectl("delete", "pod", "first", "--wait=false")
    tested = stage.namespace.helm("test", "batchfleet")
    wrong = [] if re.search(r"Phase:\s+Succeeded", tested) else ["helm test failed"]
    return f"first right answer after {took:.0f} s", wrong


def step(stage):
    """A step to ten times the load: floor within 6 s, pods within 21 s, at most twice as many late
    requests as simulated."""
    low, high, before, after = 30, 300, 45, 120
    stage.fleet("step", {"min": 1, "max": 8, "holdSeconds": 60, "coldStartSeconds": 10})
    steady = stage.load("step", low, before + after)
    settle(before)
    with Recorder(stage.namespace, "hpa", "step") as autoscalers, \
            Recorder(stage.namespace, "pods", "--selector", workers("step")) as pods:
        more = stage.load("step", high - low, after)
        reports = [steady.report(), more.report()]
    at = reports[1]["began"]
    first = min(autoscalers.values(lambda hpa: hpa["spec"]["minReplicas"]))
    wanted = max(autoscalers.values(lambda hpa: hpa["spec"]["minReplicas"]))
    floor = autoscalers.first(lambda hpa: hpa["spec"]["minReplicas"] > first, at)
    names = lambda until: {p["metadata"]["name"] for t, _, p in pods.changes if t <= until}
    created = pods.first(lambda p: p["metadata"]["name"] not in names(at), at)
    started = pods.first(lambda p: p["metadata"]["name"] not in names(at) and is_ready(p), at)
    sent = sum(report["sent"] for report in reports)
    late = sum(report["late"] + report["sent"] - report["right"] for report in reports) / sent
    if floor is None or created is None or started is None:
        return f"floor {first} to {wanted}", ["the fleet did not grow"]
    expected = simulated([(0, low), (before, high)], before + after, started - created)
    summary = (f"floor patched after {floor - at:.1f} s, pods after {created - at:.1f} s, ready after"
            f" {started - at:.1f} s; up to {wanted} workers; late {late:.2%}, simulated"
            f" {expected:.2%}")
    wrong = [trouble for report in reports for trouble in troubles(report)]
    wrong += ["floor later than 6 s"] if floor - at > 6 else []
    wrong += ["pods later than 21 s"] if created - at > 21 else []
    wrong += ["more than twice as many late as simulated"] if late > 2 * expected else []
    return summary, wrong


def simulated(rates, seconds, cold_start):
    """The share of late requests that `batchfleet simulate` predicts for the fleet `step`."""
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.writelines(f"{at},{rate}\n" for at, rate in rates)
        file.flush()
        output = run(str(ROOT / "target/release/batchfleet"), "simulate", "--curve", "20+5b",
                   "--arrivals", file.name, "--duration", f"{seconds}s", "--max-workers", "8",
                   "--deadline", "10s", "--cold-start", f"{max(cold_start, 1):.0f}s")
    row = next(line for line in output.splitlines() if line.startswith("scaled to the load"))
    return float(re.search(r"([\d.]+) %", row).group(1)) / 100


def scale_in(stage):
    """The load drops: once the autoscaler's 300 s are over, the fleet shrinks to the number that the controller
    wants, no request fails and none runs twice."""
    before, again, start = len(stage.namespace.pods(workers("step"))), stage.ran_again(), time.monotonic()
    load = stage.load("step", 30, 600)
    wanted = lambda: stage.namespace.get("modelfleet", "step")["status"]["wantedReplicas"]
    await_("the fleet shrinks", lambda: wanted() < before and ready(stage.namespace, "step", wanted()), 540, every=2)
    took, left = time.monotonic() - start, len(stage.namespace.pods(workers("step")))
    settle(10)
    report, again = load.stop(), stage.ran_again() - again
    summary = (f"{before} to {left} workers after {took:.0f} s; {report['right']} of {report['sent']} right;"
               f" {again:.0f} rerun")
    wrong = troubles(report) + ([f"{again:.0f} requests ran again"] if again else [])
    stage.drop("step")
    return summary, wrong


def worker_kills(stage):
    """Worker pods are killed under load: every request gets a right answer."""
    stage.fleet("killed", {"min": 3, "max": 3}, row_ms=1)
    load = stage.load("killed", 100, 40)
    kills = 0
    for _ in range(5):
        settle(5)
        victim = stage.namespace.pods(workers("killed"))[0]["metadata"]["name"]
        stage.namespace.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        kills += 1
    report = load.report()
    stage.drop("killed")
    return (f"{kills} kills; {report['right']} of {report['sent']} right, longest"
            f" {report['latency_ms']['max']:.0f} ms"), troubles(report)


def rollout(stage):
    """Gateways, controllers and workers are replaced under load: every request gets a right answer."""
    least = {"min": 2, "max": 2}
    stage.fleet("rolled", least, row_ms=1)
    load = stage.load("rolled", 100, 60)
    stage.upgrade("gateway.podLabels.exchanged=yes", "controller.podLabels.exchanged=yes")
    other = {"exchanged": "yes"}
    stage.namespace.apply(fleet(stage.images, "rolled", least, row_ms=1, labels=other))
    pods = lambda: stage.namespace.pods(workers("rolled"))
    is_other = lambda pod: "exchanged" in pod["metadata"]["labels"] and is_ready(pod)
    await_("other workers", lambda: [is_other(pod) for pod in pods()] == [True, True])
    report = load.report()
    stage.drop("rolled")
    return f"{report['right']} of {report['sent']} right", troubles(report)


def outage(stage, name):
    """Varies the load during an outage in which the autoscaler must get no metric. Returns the summary,
    the broken promises, and the numbers of workers."""
    with Recorder(stage.namespace, "deployment", name) as deployments, \
            Recorder(stage.namespace, "hpa", name) as autoscalers:
        reports = [stage.load(name, rate, stage.outage_seconds // 4).report()
                   for rate in (100, 200, 50, 150)]
    seen = deployments.values(lambda deployment: deployment["spec"]["replicas"])
    right, sent = (sum(report[key] for report in reports) for key in ("right", "sent"))
    late = sum(report["late"] for report in reports) / sent
    wrong = [trouble for report in reports for trouble in troubles(report)]
    wrong += ["the autoscaler got its metric"] if any(autoscalers.values(is_active)) else []
    summary = f"{right} of {sent} right, {late:.2%} late; workers {seen[0]} to {max(seen)}"
    return summary, wrong, seen


def controller_gone(stage):
    """No controller, and so no metric for the autoscaler, for five minutes of varying load: every request
    gets a right answer and no worker is removed."""
    stage.upgrade()
    stage.fleet("alone", {"min": 2, "max": 4, "holdSeconds": 60}, row_ms=1)
    await_("the autoscaler reads", lambda: stage.reads("alone"))
    stage.namespace.kubectl("scale", "deployment/batchfleet-controller", "--replicas=0")
    await_("no controller", lambda: not stage.namespace.pods("app.kubernetes.io/component=controller"))
    await_("the autoscaler reads nothing", lambda: not stage.reads("alone"))
    summary, wrong, seen = outage(stage, "alone")
    fell = any(after < before for before, after in zip(seen, seen[1:]))
    stage.namespace.kubectl("scale", "deployment/batchfleet-controller", "--replicas=2")
    await_("the autoscaler reads again", lambda: stage.reads("alone"))
    stage.drop("alone")
    return summary, wrong + (["the number of workers fell"] if fell else [])


def prometheus_gone(stage):
    """Autoscalers read from Prometheus, which is killed for five minutes of varying load: every request
    gets a right answer, and the fleet still grows, because the controller sets its floor without
    Prometheus. After a minute the controller sets the number itself, so that the fleet may also shrink."""
    stage.upgrade(NO_METRIC)
    stage.fleet("unwatched", {"min": 1, "max": 4, "holdSeconds": 60, "coldStartSeconds": 10})
    with Prometheus(stage.namespace) as prometheus, Adapter(stage.namespace, prometheus):
        await_("the autoscaler reads", lambda: stage.reads("unwatched"))
        prometheus.kill()
        await_("the autoscaler reads nothing", lambda: not stage.reads("unwatched"))
        summary, wrong, seen = outage(stage, "unwatched")
        prometheus.start()
        await_("the autoscaler reads again", lambda: stage.reads("unwatched"))
    stage.drop("unwatched")
    return summary, wrong + ([] if max(seen) > seen[0] else ["the fleet did not grow"])


def api_frozen(stage):
    """The API server is frozen for a minute: every request gets a right answer."""
    server = os.environ.get("APISERVER_PID")
    if not server:
        raise RuntimeError("APISERVER_PID must be the process id of the API server")
    stage.fleet("frozen", {"min": 2, "max": 4}, row_ms=1)
    load = stage.load("frozen", 100, 75)
    os.kill(int(server), signal.SIGSTOP)
    try:
        settle(60)
    finally:
        os.kill(int(server), signal.SIGCONT)
    report = load.report()
    # The controller must recover.
    stage.namespace.apply(fleet(stage.images, "frozen", {"min": 3, "max": 4}, row_ms=1))
    await_("a third worker", lambda: ready(stage.namespace, "frozen", 3), seconds=180)
    stage.drop("frozen")
    return f"{report['right']} of {report['sent']} right; the controller recovered", troubles(report)


def to_zero(stage):
    """Without requests the fleet scales to zero; the next request starts a worker and is answered."""
    stage.fleet("idle", {"min": 1, "max": 2}, row_ms=1)
    before = stage.load("idle", 5, 5).report()
    scaling = {"min": 0, "max": 2, "scaleToZeroAfterSeconds": 60, "coldStartSeconds": 5}
    stage.namespace.apply(fleet(stage.images, "idle", scaling, row_ms=1))
    await_("no worker", lambda: not stage.namespace.pods(workers("idle")), seconds=240)
    # The tool sends one request before it measures, and that request waits for the worker.
    woken = stage.load("idle", 5, 10).report()
    stage.drop("idle")
    waited = woken["took"] - 10
    return (f"woken: {waited:.1f} s until the first answers, then {woken['right']} of"
            f" {woken['sent']} right"), troubles(before) + troubles(woken)


# The scenarios in their order; those of a list run beside its first, which mostly waits.
ALL = [
    [install], [step], [scale_in], [rollout], [rolled_back], [controller_gone], [api_frozen], [without_metric],
    [prometheus_gone, worker_kills, fleet_deleted, rendered],
    [real_adapter, broken, changed_by_hand, second_fleet, to_zero],
    [real_keda], [real_grafana], [real_operator], [model_users], [definition_upgraded], [reinstalled], [namespace_deleted],
]
