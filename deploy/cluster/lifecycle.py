"""Scenarios of the life of a release: rollback, users of models, installation with new passwords, and the end of its
namespace."""

import base64
import contextlib
import json
import time

from fleets import ready, workers
from kube import await_, run
from load import settle, troubles

# The secret with the passwords of the Redis users of models.
USERS = "batchfleet-redis-model-users"
API = "v1beta1.external.metrics.k8s.io"


def rolled_back(stage):
    """An upgrade is rolled back under load: every request gets a right answer."""
    stage.fleet("returned", {"min": 2, "max": 2}, row_ms=1)
    load = stage.load("returned", 50, 75)
    before = stage.settings
    stage.upgrade("gateway.podLabels.exchanged=again", "controller.podLabels.exchanged=again")
    stage.namespace.helm("rollback", "batchfleet", "--wait")
    stage.settings = before
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
    stage.settings = ()
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


def model_users(stage):
    """Each model has a Redis user of its own, whose password is replaced under load: every request gets a right
    answer, and neither the worker's user nor the controller can do more than it needs."""
    namespace, name = stage.namespace, "guarded"
    stage.upgrade("redis.modelUsers=true")
    stage.fleet(name, {"min": 2, "max": 2}, row_ms=1)
    load = stage.load(name, 50, 240)
    first = url_of(namespace, name)
    field = json.dumps([{"op": "remove", "path": f"/data/url.{name}"}])
    namespace.kubectl("patch", "secret", USERS, "--type=json", "--patch", field)
    await_("a new password", lambda: url_of(namespace, name) not in (None, first))
    new = url_of(namespace, name)
    accepts = lambda url: redis(namespace, url, "PING") == "PONG"
    await_("Redis accepts the new password", lambda: accepts(new), seconds=30)
    wrong = [] if accepts(first) else ["Redis no longer accepts the password that the workers still have"]
    for pod in namespace.pods(workers(name)):
        namespace.kubectl("delete", "pod", pod["metadata"]["name"])
        await_("two workers", lambda: ready(namespace, name, 2))
    mounted = [namespace.kubectl("exec", pod["metadata"]["name"], "--", "cat", "/etc/batchfleet/redis/url")
               for pod in namespace.pods(workers(name))]
    wrong += [] if mounted == [new, new] else ["new workers have another password"]
    report = load.stop()
    wrong += troubles(report) + exceeded(namespace, name, new)
    stage.drop(name)
    return f"{report['right']} of {report['sent']} right", wrong


def url_of(namespace, model):
    """The URL with the password of a model's Redis user; None if it has none."""
    data = namespace.get("secret", USERS).get("data", {}).get(f"url.{model}")
    return data and base64.b64decode(data).decode()


def redis(namespace, url, *command):
    """The answer of the bundled Redis to a command of the user in the URL."""
    client = ("redis-cli", "--no-auth-warning", "-u", url, *command)
    return namespace.kubectl("exec", "batchfleet-redis-0", "--container", "redis", "--", *client).strip()


def exceeded(namespace, model, url):
    """What a model's Redis user and the controller can do, although they must not."""
    queue, other = f"bf:{{{model}:1}}", "bf:{other:1}"
    may = [("XLEN", f"{queue}:q:1")]
    may_not = [("XLEN", f"{other}:q:1"), ("HSET", f"{other}:workers", "a", "b"), ("SUBSCRIBE", "bf:reply:a"),
               ("HSET", "bf:{fleet}:workers", "a", "b"), ("ACL", "LIST"), ("KEYS", "*")]
    denied = lambda command: "NOPERM" in redis(namespace, url, *command)
    wrong = [f"the user of {model} cannot call {' '.join(each)}" for each in may if denied(each)]
    wrong += [f"the user of {model} can call {' '.join(each)}" for each in may_not if not denied(each)]
    account = f"--as=system:serviceaccount:{namespace.name}:batchfleet-controller"
    can = lambda *what: namespace.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace.name}/secrets{''.join(what)}", account)
    for what in ("", "/batchfleet-redis-user-admin", "/batchfleet-redis-user-gateway"):
        with contextlib.suppress(RuntimeError):
            can(what)
            wrong.append(f"the controller can read secrets{what}")
    can(f"/{USERS}")
    return wrong
