"""The flags of every program, from the texts that `--help` prints."""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import markdown

PROGRAMS = [
    "batchfleet-gateway",
    "batchfleet-worker",
    "batchfleet-controller",
    "batchfleet-controller secrets",
    "batchfleet serve",
    "batchfleet demo",
    "batchfleet check",
    "batchfleet simulate",
    "batchfleet policy",
    "batchfleet load",
    "batchfleet explain",
    "batchfleet digest",
    "batchfleet redis-acl",
    "batchfleet set-n",
]
INTRODUCTION = """
Every flag is also an environment variable where the table names one; a flag takes precedence. Durations have a unit, such
as `100ms`, `30s` or `5m`. Flags that may be given several times also take values separated by commas. With unknown or
contradictory settings, a program exits with status 64 and one line that names the remedy.
"""
# A flag or an argument, the value that it takes, and in the compact layout its text.
ITEM = re.compile(r" {2,6}(?:-\w, )?(--[\w-]+|\[[A-Z_]+\]|<[A-Z_]+>)(?:\.\.\.)?(?:\[?[= ](<.*?>)\]?(?:\.\.\.)?)?(?: {2,}(.*))?$")
NOTE = re.compile(r"\[(env|default|possible values): ([^\]]*)\]")
VALUE = re.compile(r"- ([\w-]+): +(.*)")


@dataclass
class Flag:
    """One flag or argument of a program."""

    name: str
    value: str
    paragraphs: list[str] = field(default_factory=list)

    def row(self) -> list[str]:
        """Returns the row of the flag in a table."""
        notes, text, values = {}, [], []
        for paragraph in self.paragraphs:
            if value := VALUE.fullmatch(paragraph):
                values.append(f"`{value[1]}`: {value[2]}")
                continue
            # Notes that follow the text, or are a paragraph; a note within the text is a part of it.
            while note := re.search(NOTE.pattern + "$", paragraph):
                written = len(NOTE.sub("", paragraph)) > 0
                notes.setdefault(note[1], (note[2], written))
                paragraph = paragraph[: note.start()].rstrip()
            if paragraph and paragraph != "Possible values:":
                text.append(paragraph)
        if "possible values" in notes:
            values = [f"`{value}`" for value in notes["possible values"][0].split(", ")]
        meaning = ". ".join(text) + (". Values: " + "; ".join(values) if values else "")
        default, in_words = notes.get("default", ("", False))
        in_words = in_words and (" " in default or default.isalpha())
        shown = markdown.sentence(default) if in_words else markdown.code(default)
        variable = notes.get("env", ("", False))[0].split("=")[0]
        return [markdown.code(f"{self.name} {self.value}".strip()), markdown.code(variable), shown, markdown.sentence(meaning)]


def parse(help_text: str) -> list[Flag]:
    """Returns the flags and arguments of a help text, without --help and --version."""
    flags: list[Flag] = []
    fresh = True
    for line in help_text.splitlines():
        text = line.strip()
        if item := ITEM.match(line):
            flags.append(Flag(item[1], item[2] or "", [item[3]] if item[3] else []))
            fresh = not item[3]
        elif not text or not line.startswith(" "):
            fresh = True
        elif flags:
            paragraphs = flags[-1].paragraphs
            if fresh or VALUE.match(text) or NOTE.match(text):
                paragraphs.append(text)
            else:
                paragraphs[-1] += " " + text
            fresh = False
    return [flag for flag in flags if flag.name != "--help" and (flag.name, flag.value) != ("--version", "")]


def program(folder: Path, command: str) -> str:
    """Returns the section of a program or of one of its commands."""
    name, *subcommand = command.split()
    # Short descriptions would stand beside the flags; --help puts every description below its flag.
    text = subprocess.run([folder / name, *subcommand, "--help"], check=True, capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "COLUMNS": "100"}).stdout
    about, _, rest = text.partition("\nUsage: ")
    usage, _, rest = rest.partition("\n")
    rows = [flag.row() for flag in parse(rest)]
    flags = markdown.table(["flag", "variable", "default", "meaning"], rows) if rows else "No flags.\n"
    return markdown.section(f"`{command}`", markdown.sentence(about) + ".", f"```\n{usage}\n```", flags)


def page(folder: Path) -> str:
    """Returns the page of all flags."""
    return markdown.page("Flags", INTRODUCTION, *(program(folder, command) for command in PROGRAMS))
