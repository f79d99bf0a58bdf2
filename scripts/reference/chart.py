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
