"""The values of the chart, from its schema and its defaults."""

import json
from pathlib import Path

import yaml

import markdown
import schema

INTRODUCTION = """
The chart refuses a value that is not listed here. `gateway.settings` and `controller.settings` hold the
[flags](flags.md) of the programs, in camel case. `models` holds fleets by name, with the fields of a
[ModelFleet](modelfleet.md).
"""


def page(chart: Path) -> str:
    """Returns the page of all values."""
    described = json.loads((chart / "values.schema.json").read_text())
    defaults = yaml.safe_load((chart / "values.yaml").read_text())
    sections = schema.groups(described, "", defaults, frozenset(["models"]))
    return markdown.page("Chart values", INTRODUCTION, *sections)


def readme(chart: Path) -> str:
    """Returns the README of the chart, in the form of helm-docs."""
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    described = json.loads((chart / "values.schema.json").read_text())
    defaults = yaml.safe_load((chart / "values.yaml").read_text())
    rows = schema.rows(described, "", defaults, frozenset(["models"]))
    # The tables of helm-docs are sorted, and name the type before the default.
    values = markdown.table(["Key", "Type", "Default", "Description"], sorted(rows, key=lambda row: row[0].strip("`")))
    people = markdown.table(["Name", "Url"], [[person["name"], f"<{person['url']}>"] for person in about["maintainers"]])
    needs = markdown.section("Requirements", f"Kubernetes: `{about['kubeVersion']}`")
    return markdown.page(
        about["name"], f"{about['description']}.\n\nVersion: `{about['version']}`, appVersion: `{about['appVersion']}`, "
        f"homepage: <{about['home']}>\n\n" + INSTALL.strip(),
        markdown.section("Maintainers", people), markdown.section("Source Code", *(f"* <{url}>" for url in about["sources"])),
        needs, markdown.section("Values", values))


INSTALL = """
[Kubernetes](https://github.com/batchfleet/batchfleet/blob/main/docs/start/kubernetes.md) explains the installation, and
[examples](https://github.com/batchfleet/batchfleet/tree/main/helm/batchfleet/examples) has values for GPUs, access control,
OpenShift, IPv6, an existing Redis and production. From a clone, after `make images`
(`LOAD=kind`, `k3d` or `minikube` loads the images into the cluster):

```
helm install batchfleet helm/batchfleet --values target/images.yaml --namespace models --create-namespace \\
  --set externalMetrics.enabled=true --set demo.enabled=true --wait
```
"""
