"""The HTTP interface, from its OpenAPI document."""

import json
from pathlib import Path

import markdown

INTRODUCTION = """
The Open Inference Protocol v2 with the extensions of NVIDIA Triton. A gateway serves the OpenAPI document itself at
`/openapi.json`. Every error is `{"error": "<code>: <text>"}` with the code also in the header `x-error-code`
([error codes](errors.md)). [Responses](responses.md) explains deadlines, classes and the header `x-batch`.
"""


class Document:
    """An OpenAPI document."""

    def __init__(self, text: str):
        self.root = json.loads(text)

    def resolve(self, node: dict) -> dict:
        """Returns the target of a `$ref`, or the node itself."""
        while "$ref" in node:
            target = self.root
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = target
        return node

    def operation(self, method: str, path: str, node: dict) -> str:
        """Returns the section of one operation."""
        parameters = [self.resolve(parameter) for parameter in node.get("parameters", [])]
        responses = [(status, self.resolve(response)) for status, response in node["responses"].items()]
        bodies = node.get("requestBody", {}).get("content", {})
        asked = markdown.table(["parameter", "in", "meaning"], [
            [f"`{each['name']}`", each["in"], markdown.sentence(each.get("description", ""))] for each in parameters])
        sent = ", ".join(f"`{media}`: {type_name(body['schema'])}" for media, body in bodies.items())
        answered = markdown.table(["status", "body", "meaning"], [
            [status, body_of(response), markdown.sentence(response["description"])] for status, response in responses])
        about = (node["summary"].rstrip(".") + ". " + node.get("description", "")).strip()
        return markdown.section(f"`{method.upper()} {path}`", about, asked if parameters else "",
                                f"Body: {sent}." if sent else "", answered)

    def schemas(self) -> str:
        """Returns the section of all bodies."""
        parts = []
        for name, node in self.root["components"]["schemas"].items():
            parts.append(f"### {name}")
            if about := node.get("description"):
                parts.append(about)
            required = node.get("required", [])
            rows = [[f"`{field}`", type_name(below), "yes" if field in required else "",
                     markdown.sentence(below.get("description", ""))] for field, below in node.get("properties", {}).items()]
            parts.append(markdown.table(["field", "type", "required", "meaning"], rows) if rows else type_name(node) + ".")
        return markdown.section("Bodies", *parts)


def type_name(node: dict) -> str:
    """Returns the type of a value; a link if it is a schema of its own."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if choices := node.get("enum"):
        return " or ".join(markdown.code(str(choice)) for choice in choices)
    for several in ("oneOf", "anyOf"):
        if several in node:
            return " or ".join(dict.fromkeys(type_name(each) for each in node[several]))
    kind = node.get("type", "any")
    if kind == "array":
        return f"list of {type_name(node.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else kind


def body_of(response: dict) -> str:
    """Returns the types of a response's body."""
    return ", ".join(dict.fromkeys(type_name(body.get("schema", {})) for body in response.get("content", {}).values()))


def page(path: Path) -> str:
    """Returns the page of all operations and bodies."""
    document = Document(path.read_text())
    sections = [document.operation(method, route, node)
                for route, methods in document.root["paths"].items()
                for method, node in methods.items() if method in ("get", "post", "put", "delete", "head")]
    return markdown.page("HTTP", INTRODUCTION, *sections, document.schemas())
