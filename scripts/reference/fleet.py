"""The fields of a ModelFleet, from its custom resource definition."""

from pathlib import Path

import yaml

import markdown
import schema

INTRODUCTION = """
A `ModelFleet` (`batchfleet.dev/v1alpha1`, short name `mf`) is a fleet of workers that serves one model. Fields without a
default may be left out unless they are named as required. `kubectl explain modelfleet.spec` prints the same texts.
"""


def page(definition: Path) -> str:
    """Returns the page of all fields, with the rules that the API server checks."""
    version = yaml.safe_load(definition.read_text())["spec"]["versions"][0]
    fields = version["schema"]["openAPIV3Schema"]["properties"]
    sections = []
    for part in ("spec", "status"):
        sections += schema.groups(fields[part], part, None)
    required = markdown.table(["object", "required fields"], [
        [f"`{name}`", ", ".join(f"`{field}`" for field in names)] for name, names in needed(fields["spec"], "spec")])
    checks = markdown.table(["object", "rule"], [
        [f"`{name}`", markdown.sentence(rule)] for name, rule in rules(fields["spec"], "spec")])
    return markdown.page("ModelFleet", INTRODUCTION, *sections, markdown.section("Required fields", required),
                         markdown.section("Rules", "The API server refuses an object that breaks one of these rules.", checks))


def objects(node: dict, name: str):
    """Yields each object below a schema with its name."""
    yield name, node
    for key, below in node.get("properties", {}).items():
        yield from objects(below, f"{name}.{key}")
    if "items" in node:
        yield from objects(node["items"], f"{name}[]")


def needed(node: dict, name: str) -> list[tuple[str, list[str]]]:
    """Returns the required fields of each object."""
    return [(path, below["required"]) for path, below in objects(node, name) if below.get("required")]


def rules(node: dict, name: str) -> list[tuple[str, str]]:
    """Returns the messages of all validation rules."""
    found = []
    for path, below in objects(node, name):
        for rule in below.get("x-kubernetes-validations", []):
            found.append((path, rule.get("message", f"`{rule['rule']}`")))
    return found
