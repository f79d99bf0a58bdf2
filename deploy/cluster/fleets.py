"""The fleets under test: echo models whose batch time is configured."""

FILL = """mkdir -p /models/{name}/1 && cat >/models/{name}/config.pbtxt <<'END'
backend: "batchfleet_echo"
input [{{ name: "input" data_type: TYPE_FP32 dims: [ -1 ] }}]
output [{{ name: "output" data_type: TYPE_FP32 dims: [ -1 ] }}]
parameters {{ key: "batch_ms" value {{ string_value: "{batch_ms}" }} }}
parameters {{ key: "row_ms" value {{ string_value: "{row_ms}" }} }}
{faults}END
"""
FAULT = 'parameters {{ key: "{}" value {{ string_value: "{}" }} }}\n'


def fleet(images, name, scaling, batch_ms=20, row_ms=5, labels=None, **faults):
    """A ModelFleet whose batch of b rows takes batch_ms + row_ms * b. `faults` are those of the echo engine, such as
    `hang_marker`: a batch whose inputs contain this text never returns."""
    faults = "".join(FAULT.format(*fault) for fault in faults.items())
    script = FILL.format(name=name, batch_ms=batch_ms, row_ms=row_ms, faults=faults)
    return {
        "apiVersion": "batchfleet.dev/v1alpha1", "kind": "ModelFleet",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": {"emptyDir": {
                "image": images["worker"], "command": ["/bin/sh", "-c"], "args": [script],
                "sizeLimit": "1Mi"}}},
            "scaling": scaling,
            "worker": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
            "pod": {"labels": labels or {}},
        },
    }


def workers(name):
    return f"batchfleet.dev/fleet={name}"


def is_ready(pod):
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def ready(namespace, name, count):
    """Whether the fleet has exactly `count` workers and all of them are ready."""
    pods = namespace.pods(workers(name))
    return len(pods) == count and all(is_ready(pod) for pod in pods)
