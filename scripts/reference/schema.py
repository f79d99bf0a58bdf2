"""Rows of tables from JSON schemas: chart values and fields of custom resources."""

import json

import markdown


def kind(schema: dict) -> str:
    """Returns the type of a value, with its limits."""
    name = schema.get("type", "any")
    if isinstance(name, list):
        name = " or ".join(name)
    if name == "array":
        name = f"list of {kind(schema.get('items', {}))}"
    elif name == "object" and isinstance(schema.get("additionalProperties"), dict):
        name = f"map of {kind(schema['additionalProperties'])}"
    elif schema.get("x-kubernetes-int-or-string"):
        name = "quantity"
    if choices := [json.dumps(choice) for choice in schema.get("enum", []) if choice is not None]:
        return " or ".join(f"`{choice.strip(chr(34))}`" if choice != '""' else "empty" for choice in choices)
    low, high = (schema.get(bound) for bound in ("minimum", "maximum"))
    whole = [None if bound is None else f"{bound:g}" if abs(bound) < 1e6 else f"{bound:.0f}" for bound in (low, high)]
    if low is not None and high is not None:
        name += f", {whole[0]} to {whole[1]}"
    elif low is not None:
        name += f", from {whole[0]}"
    elif high is not None:
        name += f", up to {whole[1]}"
    return name


def default(value) -> str:
    """Returns a default as code; nothing for what is absent or a group of further keys."""
    return "" if value is None else markdown.code(json.dumps(value))


def rows(schema: dict, prefix: str, defaults, described: frozenset[str] = frozenset()) -> list[list[str]]:
    """Returns one row for each key below a schema: name, type, default, meaning.

    `described` are the keys whose own keys another page describes.
    """
    found = []
    for key, below in schema.get("properties", {}).items():
        name = f"{prefix}.{key}" if prefix else key
        value = defaults.get(key) if isinstance(defaults, dict) else None
        if value is None:
            value = below.get("default")
        items = below.get("items", {})
        nested = below if below.get("properties") else items
        has_keys = bool(nested.get("properties")) and name not in described
        shown = None if has_keys and nested is below else value
        found.append([f"`{name}`", kind(below), default(shown), markdown.sentence(below.get("description", ""))])
        if has_keys:
            inner = value if nested is below else None
            found += rows(nested, name if nested is below else f"{name}[]", inner, described)
    return found


HEAD = ["name", "type", "default", "meaning"]


def groups(schema: dict, prefix: str, defaults, described: frozenset[str] = frozenset()) -> list[str]:
    """Returns a section for each key that has keys, after one for those that have none."""
    plain, sections = [], []
    for row_group in split(rows(schema, prefix, defaults, described), prefix):
        name, *members = row_group
        if members:
            sections.append(markdown.section(name[0], name[3], markdown.table(HEAD, members)))
        else:
            plain.append(name)
    first = [markdown.section("General", markdown.table(HEAD, plain))] if plain else []
    return first + sections


def split(all_rows: list[list[str]], prefix: str) -> list[list[list[str]]]:
    """Splits rows before each key of the first level."""
    depth = prefix.count(".") + 1 if prefix else 0
    result: list[list[list[str]]] = []
    for row in all_rows:
        if row[0].count(".") == depth:
            result.append([])
        result[-1].append(row)
    return result
