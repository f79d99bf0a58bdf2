"""The gRPC interface, from its .proto file."""

import re
from pathlib import Path

import markdown

INTRODUCTION = """
`inference.GRPCInferenceService`, with the messages and the numbers of NVIDIA Triton.
[gRPC](../guides/grpc.md) says what each call does; gateways also serve reflection and `grpc.health.v1.Health`.
"""
CALL = re.compile(r"rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\)")
BLOCK = re.compile(r"(message|oneof|enum) (\w+) \{(\})?")
FIELD = re.compile(r"((?:repeated |optional )?[\w.<>, ]+?) (\w+) = (\d+);")


def page(path: Path) -> str:
    """Returns the page of all calls and messages."""
    text = re.sub(r"//.*", "", path.read_text())
    rows = [[f"`{name}`", linked(asked, stream), linked(answered, more)]
            for name, stream, asked, more, answered in CALL.findall(text)]
    calls = markdown.section("Calls", markdown.table(["call", "request", "answer"], rows))
    messages = []
    for name, fields in fields_by_message(text).items():
        messages.append(f"### {name}")
        messages.append(markdown.table(["field", "type", "number"], fields) if fields else "No fields.")
    return markdown.page("gRPC", INTRODUCTION, calls, markdown.section("Messages", *messages))


def linked(message: str, stream: str) -> str:
    """Returns a link to a message."""
    return f"{stream}[{message}](#{message.lower()})"


def fields_by_message(text: str) -> dict[str, list[list[str]]]:
    """Returns the rows of the fields of each message; a nested message is named after the one around it."""
    found: dict[str, list[list[str]]] = {}
    around: list[tuple[str, str]] = []
    for line in text.splitlines():
        if block := BLOCK.search(line):
            kind, name, closed = block.groups()
            path = ".".join([outer for outer_kind, outer in around if outer_kind == "message"] + [name])
            if kind == "message":
                found[path] = []
            if not closed:
                around.append((kind, name))
        elif "}" in line and around:
            around.pop()
        elif around and (field := FIELD.search(line)):
            path = ".".join(name for kind, name in around if kind == "message")
            kind, name, number = field.groups()
            choice = f", one of `{around[-1][1]}`" if around[-1][0] == "oneof" else ""
            found[path].append([f"`{name}`", f"`{kind.strip()}`{choice}", number])
    return found
