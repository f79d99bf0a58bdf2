"""Scenarios of fleets that cannot work or are deleted, and of hands that change objects."""

import base64
import contextlib
import json
import re
import struct
import time

from fleets import fleet, ready, workers
from kube import GATEWAYS, NO_METRIC, await_
from load import settle, troubles


def set_(path, value):
    """A change of a ModelFleet: sets the field at a path such as `spec.worker.image`."""

    def change(thing):
        *outer, last = path.split(".")
        for key in outer:
            thing = thing.setdefault(key, {})
        thing[last] = value

    return change


# The reason that each broken fleet must give, and a part of the message of its condition Degraded.
BROKEN = {
    "model-name": ("ModelNotFound", 'no model "wyde"', set_("spec.model.name", "wyde")),
    "no-claim": ("ClaimMissing", "not found",
                 set_("spec.model.source", {"persistentVolumeClaim": {"claimName": "nothing"}})),
    "no-secret": ("VolumeUnavailable", 'secret "nothing" not found',
                  set_("spec.model.source", {"objectStore": {"url": "s3://models", "optionsSecret": "nothing"}})),
    "no-image": ("ImageUnavailable", "example.invalid/worker:1", set_("spec.worker.image", "example.invalid/worker:1")),
    "bad-init": ("InitContainerFailed", "no such bucket",
                 set_("spec.model.source.emptyDir.args", ["echo no such bucket >&2; exit 3"])),
    "too-much-cpu": ("InsufficientResources", "Insufficient cpu", set_("spec.worker.requests", {"cpu": "500"})),
    "no-gpu": ("InsufficientResources", "Insufficient nvidia.com/gpu",
               set_("spec.worker", {"executionProvider": "cuda", "gpu": {"count": 64}})),
    "bad-label": ("SpecRefused", "a valid label must be", set_("spec.pod.labels", {"team": "not valid!"})),
}

# The same for fleets whose workers fail at a request: the fault of the echo engine instead of a change. The four
# bytes of the marker are those of a 32-bit number in the request.
FAILING = {
    "hung": ("BatchHung", "a batch took longer than 1s", {"hang_marker": "hang"}),
    "lost-gpu": ("DeviceLost", "CUDA failure 700", {"fatal_marker": "lost"}),
}
REFUSED_BY_REDIS = ("wrong-password", "RedisRefused", "password")

# What the API server must say to each spec that the definition of ModelFleet does not allow.
REFUSED = {
    "worker.requests must not be more than worker.limits":
        set_("spec.worker", {"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}),
    "spec.worker.requests.cpu in body should match": set_("spec.worker.requests", {"cpu": "two"}),
    "scaling.min must not be more than scaling.max": set_("spec.scaling", {"min": 3, "max": 2}),
}


def refusals(stage):
    """The specs that the API server accepts, although it must refuse them with these words."""
    accepted = []
    for words, change in REFUSED.items():
        thing = fleet(stage.images, "refused", {"min": 1, "max": 2})
        change(thing)
        try:
            stage.namespace.apply(thing)
        except RuntimeError as refusal:
            accepted += [] if words in str(refusal) else [f"{refusal} lacks {words!r}"]
        else:
            accepted.append(f"not refused: {words}")
    return accepted


def broken(stage):
    """Each broken fleet says why, by its reason and in the words of the failed container, or the API server
    refuses it."""
    namespace, wrong = stage.namespace, refusals(stage)
    for name, (_, _, change) in BROKEN.items():
        thing = fleet(stage.images, name, {"min": 1, "max": 2})
        change(thing)
        namespace.apply(thing)
    for name, (_, _, faults) in FAILING.items():
        thing = fleet(stage.images, name, {"min": 1, "max": 2}, **faults)
        set_("spec.batch", {"maxSeconds": 1})(thing)
        namespace.apply(thing)
    for name, (reason, words, _) in BROKEN.items():
        wrong += judged(namespace, name, reason, words)
    for name, (reason, words, faults) in FAILING.items():
        (marker,) = faults.values()
        wrong += judged(namespace, name, reason, words, lambda: send(namespace, name, marker))
    name, *expected = REFUSED_BY_REDIS
    with wrong_password(namespace):
        namespace.apply(fleet(stage.images, name, {"min": 1, "max": 2}))
        wrong += judged(namespace, name, *expected)
    names = [*BROKEN, *FAILING, name]
    for name in names:
        stage.drop(name)
    return f"{len(names)} broken fleets, and {len(REFUSED)} refused ones", wrong


def judged(namespace, name, expected, words, provoke=lambda: None):
    """Waits until a fleet gives the expected reason, and prints what users see. Returns what is wrong with it."""
    status = lambda: namespace.get("modelfleet", name).get("status", {})

    def has_reason():
        provoke()
        return status().get("reason") == expected

    try:
        await_(f"reason {expected} of {name}", has_reason, seconds=120)
    except RuntimeError as late:
        return [f"{late}; it is {status().get('reason')}"]
    row = namespace.kubectl("get", "modelfleet", name, "--no-headers")
    message = next(each["message"] for each in status()["conditions"] if each["type"] == "Degraded")
    print(f"        {row}          {message}", flush=True)
    return [] if words in message else [f"{name}: {message!r} lacks {words!r}"]


def send(namespace, name, marker):
    """Sends a request with the marker, which ends the worker that takes it. The answer does not matter."""
    (number,) = struct.unpack("<f", marker.encode())
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [number]}]}
    path = f"/api/v1/namespaces/{namespace.name}/services/batchfleet:80/proxy/v2/models/{name}/infer"
    with contextlib.suppress(RuntimeError):
        namespace.kubectl("create", "--raw", path, "--filename", "-", "--request-timeout=2s", stdin=json.dumps(body))


@contextlib.contextmanager
def wrong_password(namespace):
    """Workers that start inside the `with` block get a wrong password of Redis."""
    name = "batchfleet-redis-user-worker"
    right = base64.b64decode(namespace.get("secret", name)["data"]["url"]).decode()
    put = lambda url: namespace.kubectl("patch", "secret", name, "--patch", json.dumps({"stringData": {"url": url}}))
    put(re.sub(":[^:/]+@", ":wrong@", right))
    try:
        yield
    finally:
        put(right)


def notes(namespace, reason):
    """The notes of all events with this reason."""
    events = namespace.get("events.events.k8s.io")["items"]
    return [event.get("note", "") for event in events if event.get("reason") == reason]


def changed_by_hand(stage):
    """A changed and a deleted object are set back, and events say what was changed and by which client."""
    stage.fleet("touched", {"min": 1, "max": 3})
    patch = '{"spec": {"maxReplicas": 9}}'
    stage.namespace.kubectl("patch", "hpa", "touched", "--patch", patch, "--field-manager", "my-hand")
    limit = lambda: stage.namespace.get("hpa", "touched")["spec"]["maxReplicas"]
    await_("maxReplicas is set back", lambda: limit() == 3, seconds=15)
    stage.namespace.kubectl("delete", "hpa", "touched")
    exists = lambda: stage.namespace.kubectl("get", "hpa", "touched", "--ignore-not-found")
    await_("the autoscaler is made again", exists, seconds=15)
    said = lambda: notes(stage.namespace, "ChangeSetBack")
    names = lambda *words: any(all(word in note for word in words) for note in said())
    # An event may be written after the change.
    await_("a note of the change", lambda: names("maxReplicas", "my-hand"), seconds=15)
    await_("a note of the deletion", lambda: names("was deleted"), seconds=15)
    stage.drop("touched")
    return "; ".join(said()), []


def second_fleet(stage):
    """A second fleet of the same model gets no workers and names the first."""
    stage.fleet("first", {"min": 1, "max": 2})
    second = fleet(stage.images, "second", {"min": 1, "max": 2})
    set_("spec.model.name", "first")(second)
    stage.namespace.apply(second)
    status = lambda: stage.namespace.get("modelfleet", "second").get("status", {})
    await_("the second is refused", lambda: status().get("reason") == "SameModel", seconds=30)
    wrong = ["the second fleet has workers"] if stage.namespace.pods(workers("second")) else []
    message = next(c["message"] for c in status()["conditions"] if c["type"] == "ScalingConflict")
    stage.drop("second")
    stage.drop("first")
    return message, wrong + ([] if "ModelFleet first" in message else ["the first is not named"])


def fleet_deleted(stage):
    """A fleet is deleted while requests wait: a worker answers those that it has claimed, and the
    gateways refuse the others at once."""
    thing = fleet(stage.images, "doomed", {"min": 1, "max": 1}, batch_ms=200)
    set_("spec.batch", {"mode": "fixed", "rows": 1})(thing)
    stage.namespace.apply(thing)
    await_("the worker", lambda: ready(stage.namespace, "doomed", 1))
    load = stage.load("doomed", 10, 150)
    depth = re.compile(r'batchfleet_queue_depth{.*model="doomed"')
    waiting = lambda: max(value for name, value in stage.namespace.metrics(GATEWAYS).items() if depth.match(name))
    await_("ten requests wait", lambda: waiting() >= 10)
    stage.namespace.kubectl("delete", "modelfleet", "doomed", "--wait=false")
    start = time.monotonic()
    await_("no worker", lambda: not stage.namespace.pods(workers("doomed")), seconds=60)
    drained = time.monotonic() - start
    # Longer than the gateways' deadline, so that a request which is held instead of refused is seen.
    settle(12)
    report = load.stop()
    refused = report["refused"].pop("503 no_workers", 0)
    wrong = troubles(report) + ([] if refused else ["no request was refused"])
    longest = report["latency_ms"]["max"]
    return (f"{report['right']} of {report['sent']} right, longest {longest:.0f} ms, {refused} x no_workers;"
            f" no worker after {drained:.0f} s"), wrong


def without_metric(stage):
    """Without any metrics API a fleet in mode hpa grows and shrinks, and says what scales it."""
    stage.upgrade(NO_METRIC)
    stage.fleet("blind", {"min": 1, "max": 3, "holdSeconds": 20, "coldStartSeconds": 5}, row_ms=20)
    report = stage.load("blind", 60, 60).report()
    most = len(stage.namespace.pods(workers("blind")))
    start = time.monotonic()
    await_("one worker is left", lambda: ready(stage.namespace, "blind", 1), seconds=240)
    took = time.monotonic() - start
    conditions = stage.namespace.get("modelfleet", "blind")["status"]["conditions"]
    scaler = next(each for each in conditions if each["type"] == "AutoscalerActive")
    wrong = troubles(report) + ([] if most > 1 else ["the fleet did not grow"])
    wrong += [] if scaler["reason"] == "MetricUnavailable" else [f"the scaler is {scaler['reason']}"]
    stage.drop("blind")
    return f"{most} workers to 1 after {took:.0f} s; {report['right']} of {report['sent']} right", wrong
