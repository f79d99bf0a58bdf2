"""Scenarios without Helm's own installation: the rendered chart is applied, and its definition is upgraded."""

import json

from fleets import is_ready, ready, workers
from kube import GATEWAYS, NO_METRIC, Namespace, await_, run
from load import Load, troubles

DEFINITIONS = "charts/crds/crds"
# What an earlier definition of ModelFleet lacks, in addition to all rules.
COLUMNS = ("Reason", "HPA")
FIELDS = ("reason", "autoscalerReplicas")


def rendered(stage):
    """The chart without Helm, as GitOps tools install it: two renderings are equal, an applied rendering serves,
    the same again changes nothing, and a pruned fleet is gone."""
    namespace = Namespace(f"{stage.namespace.name}-rendered")

    def render(*settings):
        options = [each for setting in (NO_METRIC, *settings) for each in ("--set", setting)]
        return namespace.helm("template", *stage.install(stage.chart), "--skip-tests", *options)

    first = render()
    run("kubectl", "create", "namespace", namespace.name)
    try:
        summary, wrong = applied(stage, namespace, first, render("demo.enabled=false"))
    finally:
        namespace.kubectl("delete", "--ignore-not-found", "--filename", "-", stdin=first)
        run("kubectl", "delete", "namespace", namespace.name)
    return summary, wrong + ([] if render() == first else ["two renderings differ"])


def applied(stage, namespace, first, without_demo):
    """Applies a rendering twice, and then one without the fleet `echo`."""

    def apply(rendering):
        namespace.kubectl("apply", "--server-side", "--filename", "-", "--prune", "--applyset=rendering", stdin=rendering,
                          environment={"KUBECTL_APPLYSET": "true"})

    apply(first)
    await_("the worker of echo", lambda: ready(namespace, "echo", 1))
    await_("the gateways", lambda: all(map(is_ready, namespace.pods(GATEWAYS))))
    report = Load(namespace, stage.images, "load").start("echo", 20, 10).report()
    generations = lambda: {thing["metadata"]["name"]: thing["metadata"]["generation"]
                           for thing in namespace.get("deployments,statefulsets")["items"]}
    before = generations()
    apply(first)
    wrong = [] if generations() == before else ["the same rendering changed a Deployment"]
    apply(without_demo)
    await_("no worker of the pruned fleet", lambda: not namespace.pods(workers("echo")))
    left = set(before) - {"echo"} - set(generations())
    wrong += [f"pruned too much: {', '.join(sorted(left))}"] if left else []
    return f"{report['right']} of {report['sent']} right, and pruned", wrong + troubles(report)


def earlier(definition):
    """The definition as an earlier version had it: without rules, columns and fields that were added since."""
    if isinstance(definition, list):
        return [earlier(each) for each in definition]
    if not isinstance(definition, dict):
        return definition
    return {key: earlier(value) for key, value in definition.items() if key != "x-kubernetes-validations"}


def definition_upgraded(stage):
    """A release whose definition of ModelFleet is an earlier one is upgraded under load, as docs/operating/lifecycle.md says: every
    request gets a right answer, no worker restarts, and the new rules and columns are there."""
    stage.upgrade()
    namespace, name = stage.namespace, "defined"
    path = str(stage.chart / DEFINITIONS)
    new = json.loads(run("kubectl", "create", "--dry-run=client", "--output", "json", "--filename", path))
    old = earlier(new)
    (version,) = old["spec"]["versions"]
    version["additionalPrinterColumns"] = [each for each in version["additionalPrinterColumns"]
                                           if each["name"] not in COLUMNS]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    for field in FIELDS:
        del status[field]
    stage.fleet(name, {"min": 2, "max": 2}, row_ms=1)
    pods = lambda: sorted(pod["metadata"]["name"] for pod in namespace.pods(workers(name)))
    before = pods()
    run("kubectl", "replace", "--filename", "-", stdin=json.dumps(old))
    reason = lambda: namespace.get("modelfleet", name)["status"].get("reason")
    load = stage.load(name, 50, 120)
    await_("the earlier definition", lambda: reason() is None, seconds=60)
    run("kubectl", "apply", "--filename", path)
    stage.upgrade("gateway.podLabels.definition=new")
    await_("the fields of the new definition", lambda: reason() == "AsDesired", seconds=60)
    report = load.stop()
    wrong = troubles(report) + ([] if pods() == before else ["workers were replaced"])
    header = namespace.kubectl("get", "modelfleets").splitlines()[0].split()
    wrong += [f"no column {name}" for name in COLUMNS if name.upper() not in header]
    stage.drop(name)
    return f"{report['right']} of {report['sent']} right", wrong
