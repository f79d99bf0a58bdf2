"""The real programs that fleets work with, as processes beside the cluster: prometheus-adapter, KEDA with its
metrics server, and prometheus-operator. ADDONS names the folder with the programs `prometheus-adapter`, `keda`,
`keda-adapter` and `prometheus-operator`, and with the resource definitions in `keda-crds` and
`prometheus-operator-crds`. The operator's pods need the images PROMETHEUS_IMAGE and RELOADER_IMAGE in the cluster.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import time

from adapter import RULES, cluster_facing_address, registered
from fleets import fleet, is_ready, ready, workers
from kube import NO_METRIC, await_, run
from load import troubles
from prometheus import Prometheus

EXAMPLES = RULES.parent


def at_hand(switch, *names):
    """The paths of these files of the folder ADDONS, if the variable `switch` is 1; None if it is not. Raises an
    error that names what is missing."""
    if os.environ.get(switch) != "1":
        return None
    folder = os.environ.get("ADDONS", "")
    paths = [pathlib.Path(folder, name) for name in names]
    missing = [path.name for path in paths if not path.exists()]
    if not folder or missing:
        raise RuntimeError(f"{switch}=1 needs {', '.join(missing or names)} in the folder that ADDONS names"
                           f" (now {folder!r})")
    return paths


@contextlib.contextmanager
def process(folder, name, *command, **variables):
    """Runs a program, whose output is in the folder, until the `with` block ends."""
    with pathlib.Path(folder, f"{name}.log").open("w") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **variables})
        try:
            yield
        except Exception as error:
            log.flush()
            raise RuntimeError(f"{error}; {name}: {pathlib.Path(log.name).read_text()[-1500:]}") from error
        finally:
            started.kill()
            started.wait()


def free_port(address):
    with socket.socket() as free:
        free.bind((address, 0))
        return free.getsockname()[1]


def adapter_config():
    """The configuration that the chart of prometheus-adapter makes from the example."""
    rules = RULES.read_text().split("rules:\n", 1)[1].replace("  default: false\n", "")
    rules = re.sub("^  ", "", rules, flags=re.MULTILINE)
    return rules.replace("external:", "externalRules:", 1).replace("custom:", "rules:", 1)


@contextlib.contextmanager
def prometheus_adapter(namespace, prometheus, program):
    """Serves the external metrics API with the real prometheus-adapter."""
    address, kubeconfig = cluster_facing_address(namespace), os.environ["KUBECONFIG"]
    port = free_port(address)
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "config.yaml")
        config.write_text(adapter_config())
        kubeconfigs = [f"--{use}-kubeconfig={kubeconfig}" for use in ("lister", "authentication", "authorization")]
        command = [program, *kubeconfigs, f"--config={config}", f"--prometheus-url=http://{prometheus.address}",
                   f"--bind-address={address}", f"--secure-port={port}", f"--cert-dir={folder}",
                   "--metrics-relist-interval=5s"]
        with process(folder, "prometheus-adapter", *command), registered(namespace, address, port):
            yield


@contextlib.contextmanager
def keda(namespace, operator, server, definitions):
    """Runs KEDA's operator, and its metrics server as the provider of external metrics."""
    address = cluster_facing_address(namespace)
    port, service, http = (free_port(address) for _ in range(3))
    define(definitions)
    with tempfile.TemporaryDirectory() as folder:
        certificates(folder, address)
        variables = {"WATCH_NAMESPACE": namespace.name, "POD_NAMESPACE": namespace.name,
                     "KEDA_CLUSTER_OBJECT_NAMESPACE": namespace.name}
        operating = [operator, f"--cert-dir={folder}", f"--metrics-service-bind-address=:{service}",
                     "--metrics-bind-address=:0", "--health-probe-bind-address=:0"]
        kubeconfig = os.environ["KUBECONFIG"]
        serving = [server, f"--metrics-service-address={address}:{service}", f"--secure-port={port}", f"--port={http}",
                   f"--bind-address={address}", f"--cert-dir={folder}", f"--client-ca-file={folder}/ca.crt",
                   f"--tls-cert-file={folder}/tls.crt", f"--tls-private-key-file={folder}/tls.key",
                   *(f"--{use}kubeconfig={kubeconfig}" for use in ("", "lister-", "authentication-", "authorization-"))]
        with process(folder, "keda", *operating, **variables), \
                process(folder, "keda-adapter", *serving, **variables), registered(namespace, address, port):
            yield


def define(definitions):
    """Applies resource definitions, and waits until the API server serves them: operators look once, at their start."""
    run("kubectl", "apply", "--server-side", "--filename", definitions)
    run("kubectl", "wait", "--for=condition=Established", "--filename", definitions, "--timeout=60s")


def certificates(folder, address):
    """An authority, and a certificate for both programs of KEDA."""
    common = ["-nodes", "-days", "2", "-newkey", "rsa:2048"]
    run("openssl", "req", "-x509", *common, "-subj", "/CN=authority",
        "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt")
    run("openssl", "req", "-x509", *common, "-subj", "/CN=keda", "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key",
        "-addext", f"subjectAltName=IP:{address}", "-addext", "basicConstraints=critical,CA:FALSE",
        "-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt")


def scaled_to_the_load(stage, name):
    """Puts twice the load on a fleet that its one worker can take. Returns the summary, and what went wrong: failed
    requests, too few workers, or a number that never comes within one of what the controller wants. The autoscaler
    follows within 15 s. For the first backlog it may add more workers, which it keeps for 300 s."""
    every, grown, longest = 5, 40, 540
    load, samples = stage.load(name, 80, longest + 60), []

    def fits():
        samples.append((stage.namespace.get("modelfleet", name)["status"]["wantedReplicas"],
                        stage.namespace.get("deployment", name)["spec"]["replicas"]))
        last = samples[grown // every:][-3:]
        return len(last) == 3 and all(abs(wanted - found) <= 1 for wanted, found in last)

    start, late = time.monotonic(), []
    try:
        await_("three numbers within one of the wanted one", fits, seconds=longest, every=every)
    except RuntimeError as error:
        late.append(str(error))
    took, report = time.monotonic() - start, load.stop()
    short = [wanted - found > 1 for wanted, found in samples[grown // every:]]
    wrong = troubles(report) + late
    wrong += ["too few workers for 15 s"] if any(map(all, zip(short, short[1:], short[2:]))) else []
    wrong += [] if max(wanted for wanted, _ in samples) > 1 else ["the controller wants one worker only"]
    wanted, found = samples[-1]
    most = max(found for _, found in samples)
    return (f"wanted {wanted}, found {found} after {took:.0f} s, at most {most};"
            f" {report['right']} of {report['sent']} right"), wrong


def real_adapter(stage):
    """The real prometheus-adapter with the example's rules: the autoscaler reads the queue's depth."""
    found = at_hand("ADAPTER", "prometheus-adapter")
    if not found:
        return "ADAPTER is not 1", None
    stage.upgrade(NO_METRIC)
    stage.fleet("adapted", {"min": 1, "max": 8, "holdSeconds": 60, "coldStartSeconds": 10}, row_ms=20)
    with Prometheus(stage.namespace) as prometheus, prometheus_adapter(stage.namespace, prometheus, *found):
        await_("the autoscaler reads", lambda: stage.reads("adapted"))
        summary, wrong = scaled_to_the_load(stage, "adapted")
        await_("the autoscaler still reads", lambda: stage.reads("adapted"))
    stage.drop("adapted")
    return summary, wrong


def real_keda(stage):
    """The real KEDA with the example: it follows the number that the controller wants."""
    found = at_hand("KEDA", "keda", "keda-adapter", "keda-crds")
    if not found:
        return "KEDA is not 1", None
    stage.upgrade(NO_METRIC)
    namespace = stage.namespace
    namespace.apply(fleet(stage.images, "digits", {"mode": "external", "max": 8, "coldStartSeconds": 10}, row_ms=20))
    await_("a worker", lambda: ready(namespace, "digits", 1))
    with Prometheus(namespace) as prometheus, keda(namespace, *found):
        # The two values that the example tells its users to change.
        example = (EXAMPLES / "keda.yaml").read_text().replace('namespace="models"', f'namespace="{namespace.name}"')
        example = example.replace("http://prometheus.monitoring:9090", f"http://{prometheus.address}")
        namespace.kubectl("apply", "--filename", "-", stdin=example)
        await_("KEDA's autoscaler reads", lambda: stage.reads("keda-hpa-digits"))
        summary, wrong = scaled_to_the_load(stage, "digits")
        namespace.kubectl("delete", "scaledobject", "digits")
    stage.drop("digits")
    return summary, wrong


def real_operator(stage):
    """The real prometheus-operator with the chart's monitors and rules: its Prometheus scrapes every program, and
    every rule can be evaluated."""
    found = at_hand("OPERATOR", "prometheus-operator", "prometheus-operator-crds")
    if not found:
        return "OPERATOR is not 1", None
    program, definitions = found
    namespace = stage.namespace
    define(definitions)
    operating = [program, f"--namespaces={namespace.name}", "--web.listen-address=127.0.0.1:0",
                 f"--prometheus-config-reloader={os.environ['RELOADER_IMAGE']}"]
    with tempfile.TemporaryDirectory() as folder, process(folder, "prometheus-operator", *operating):
        stage.upgrade(NO_METRIC, "monitoring.podMonitors.enabled=true", "monitoring.podMonitors.interval=2s",
                      "monitoring.rules.enabled=true")
        stage.fleet("watched", {"min": 2, "max": 2}, row_ms=1)
        namespace.apply(*scraping(namespace.name, os.environ["PROMETHEUS_IMAGE"]))
        await_("Prometheus is ready", lambda: any(map(is_ready, namespace.pods("prometheus=watching"))), seconds=90)
        path = f"/api/v1/namespaces/{namespace.name}/pods/prometheus-watching-0:9090/proxy/api/v1"
        ask = lambda what: json.loads(namespace.kubectl("get", "--raw", f"{path}/{what}"))["data"]
        up = lambda: {target["labels"]["pod"] for target in ask("targets")["activeTargets"] if target["health"] == "up"}
        programs = "app.kubernetes.io/component in (gateway, controller, worker)"
        pods = {pod["metadata"]["name"] for pod in namespace.pods(programs)}
        await_(f"every one of {len(pods)} pods is scraped", lambda: pods <= up(), seconds=90)
        rules = lambda: [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        await_("every rule is evaluated", lambda: rules() and all(rule["health"] == "ok" for rule in rules()))
        summary = f"{len(pods)} pods are scraped, {len(rules())} rules are evaluated"
        namespace.kubectl("delete", "prometheus", "watching")
        stage.drop("watched")
    return summary, []


def scraping(namespace, image):
    """A Prometheus for the operator, and its rights."""
    name = "watching"
    group = {"apiGroup": "rbac.authorization.k8s.io"}
    restricted = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name},
         "rules": [{"apiGroups": [""], "resources": ["pods", "services", "endpoints"], "verbs": ["get", "list", "watch"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
         "roleRef": {**group, "kind": "Role", "name": name},
         "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]},
        {"apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus", "metadata": {"name": name},
         "spec": {"image": image, "version": "v3.5.3", "serviceAccountName": name, "securityContext": restricted,
                  "podMonitorSelector": {}, "serviceMonitorSelector": {}, "ruleSelector": {},
                  "evaluationInterval": "5s", "resources": {"requests": {"memory": "100Mi"}}}},
    ]
