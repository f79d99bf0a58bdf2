"""The real programs that fleets work with, as processes beside the cluster: prometheus-adapter, and KEDA with
its metrics server. ADDONS names the folder with the programs `prometheus-adapter`, `keda` and `keda-adapter`,
and with KEDA's resource definitions in `keda-crds`.
"""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import tempfile

from adapter import RULES, cluster_facing_address, registered
from fleets import fleet, ready, workers
from kube import await_, run
from load import settle, troubles
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
    run("kubectl", "apply", "--server-side", "--filename", definitions)
    with tempfile.TemporaryDirectory() as folder:
        certificates(folder, address)
        variables = {"WATCH_NAMESPACE": namespace.name, "POD_NAMESPACE": namespace.name}
        operating = [operator, f"--cert-dir={folder}", f"--metrics-service-bind-address=:{service}",
                     "--metrics-bind-address=:0", "--health-probe-bind-address=:0"]
        kubeconfig = os.environ["KUBECONFIG"]
        serving = [server, f"--metrics-service-address={address}:{service}", f"--secure-port={port}", f"--port={http}",
                   f"--bind-address={address}", f"--cert-dir={folder}", f"--client-ca-file={folder}/ca.crt",
                   f"--tls-cert-file={folder}/tls.crt", f"--tls-private-key-file={folder}/tls.key",
                   f"--authentication-kubeconfig={kubeconfig}", f"--authorization-kubeconfig={kubeconfig}"]
        with process(folder, "keda", *operating, **variables), \
                process(folder, "keda-adapter", *serving, **variables), registered(namespace, address, port):
            yield


def certificates(folder, address):
    """An authority, and a certificate for both programs of KEDA."""
    common = ["-nodes", "-days", "2", "-newkey", "rsa:2048"]
    run("openssl", "req", "-x509", *common, "-subj", "/CN=authority",
        "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt")
    run("openssl", "req", "-x509", *common, "-subj", "/CN=keda", "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key",
        "-addext", f"subjectAltName=IP:{address}", "-addext", "basicConstraints=critical,CA:FALSE",
        "-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt")


def scaled_to_the_load(stage, name):
    """Puts more load on a fleet than its one worker can take. Returns the summary, and what went wrong: failed
    requests, or another number of workers than the controller wants."""
    load = stage.load(name, 150, 90)
    settle(75)
    status = stage.namespace.get("modelfleet", name)["status"]
    wanted, found = status["wantedReplicas"], len(stage.namespace.pods(workers(name)))
    report = load.report()
    wrong = troubles(report) + ([] if wanted > 1 else ["the controller wants one worker only"])
    wrong += [] if abs(found - wanted) <= 1 else [f"{found} workers where {wanted} are wanted"]
    return f"{found} workers, {wanted} wanted; {report['right']} of {report['sent']} right", wrong


def real_adapter(stage):
    """The real prometheus-adapter with the example's rules: the autoscaler reads the queue's depth."""
    found = at_hand("ADAPTER", "prometheus-adapter")
    if not found:
        return "ADAPTER is not 1", None
    stage.upgrade("--set", "externalMetrics.enabled=false")
    stage.fleet("adapted", {"min": 1, "max": 8, "holdSeconds": 60, "coldStartSeconds": 10})
    with Prometheus(stage.namespace) as prometheus, prometheus_adapter(stage.namespace, prometheus, *found):
        await_("the autoscaler reads", lambda: stage.reads("adapted"))
        summary, wrong = scaled_to_the_load(stage, "adapted")
        wrong += [] if stage.reads("adapted") else ["the autoscaler no longer reads its metric"]
    stage.drop("adapted")
    stage.upgrade()
    return summary, wrong


def real_keda(stage):
    """The real KEDA with the example: it follows the number that the controller wants."""
    found = at_hand("KEDA", "keda", "keda-adapter", "keda-crds")
    if not found:
        return "KEDA is not 1", None
    stage.upgrade("--set", "externalMetrics.enabled=false")
    namespace = stage.namespace
    namespace.apply(fleet(stage.images, "digits", {"mode": "external", "max": 8, "coldStartSeconds": 10}))
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
    stage.upgrade()
    return summary, wrong
