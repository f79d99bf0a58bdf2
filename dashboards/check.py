#!/usr/bin/env python3
"""Checks the boards, rules and alerts; ends with one line, "N passed, N failed".

Without a fleet: the boards are up to date with boards.py, each panel is described, each metric exists,
and rules and alerts are valid and pass tests/alerts.yaml. Then a real fleet runs under load, a real
Prometheus scrapes it, and every query of every panel, variable, rule and alert must give a result.

Needs prometheus, promtool, redis-server, node and npm, and the programs (cargo build).
"""

import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import boards
from live import Live

HERE = Path(__file__).parent
LOAD_SECONDS = 20
# The chart replaces this URL by the value `monitoring.rules.runbookUrl`.
RUNBOOKS = "https://github.com/batchfleet/batchfleet/blob/main/docs/operating/runbooks.md"
# Names of metrics and of recorded rules in a query.
NAME = re.compile(r"\b((?:batchfleet|nv_inference|process)_[a-z0-9_]+|batchfleet:[a-z0-9_:]+)")
SELECTOR = re.compile(NAME.pattern + r"(?:\{[^}]*\})?")
VALUES = re.compile(r"label_values\((.*), (\w+)\)$")
CHOICES = {"$namespace": ".*", "$model": ".*", "$__rate_interval": "15s"}


def files():
    return {name: json.loads((HERE / name).read_text()) for name in boards.boards()}


def panels(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def filled(query):
    for name, value in CHOICES.items():
        query = query.replace(name, value)
    return query


def rules():
    """Names of all rules. Those of recording rules contain a colon."""
    return re.findall(r"- (?:alert|record): (\S+)", (HERE / "alerts.yaml").read_text())


def the_boards_are_up_to_date_with_boards_py():
    subprocess.run([sys.executable, HERE / "boards.py", "--check"], check=True)


def every_panel_has_a_title_a_unit_and_a_description():
    for name, board in files().items():
        for panel in panels(board):
            unit = panel["fieldConfig"]["defaults"]["unit"]
            assert panel["title"] and unit and panel["targets"], (name, panel["title"])
            assert len(panel["description"]) > 20, (name, panel["title"])
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def no_two_panels_overlap():
    for name, board in files().items():
        taken = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                     for y in range(place["y"], place["y"] + place["h"])}
            assert place["x"] + place["w"] <= 24 and not cells & taken, (name, panel["title"])
            taken |= cells


def boards_link_to_each_other_and_to_the_runbooks():
    read = files()
    uids = {board["uid"] for board in read.values()}
    for name, board in read.items():
        urls = [link["url"] for link in board["links"]]
        assert {f"/d/{uid}" for uid in uids - {board["uid"]}} <= set(urls), name
        assert "${runbooks}" in urls, name


def every_metric_in_a_query_exists():
    documented = set(re.findall(r"^\| `(\w+)`", (HERE.parent / "docs/reference/metrics.md").read_text(), re.M))
    recorded = {name for name in rules() if ":" in name}
    texts = [(HERE / name).read_text() for name in ("overview.json", "internals.json", "alerts.yaml")]
    for name in {name for text in texts for name in NAME.findall(text)}:
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        known = {name, base} & (documented | recorded)
        assert known or name.startswith("process_"), f"no program registers {name}"


def every_alert_has_a_runbook_and_both_cases():
    runbooks = (HERE.parent / "docs/operating/runbooks.md").read_text()
    cases = (HERE / "tests" / "alerts.yaml").read_text()
    for name in rules():
        if ":" not in name:
            assert f"\n## {name}\n" in runbooks, f"{name} has no runbook"
            assert f"runbook_url: {RUNBOOKS}#{name.lower()}\n" in (HERE / "alerts.yaml").read_text(), name
            assert f"{name} fires:" in cases and f"{name} is silent:" in cases, f"{name} is not tested"


def boards_match_the_types_of_grafana():
    packages = HERE.parent / ".cache" / "dashboards"
    wanted, installed = (HERE / "schema" / "package.json").read_text(), packages / "installed.json"
    if not installed.exists() or installed.read_text() != wanted:
        print("installing Grafana's types and units")
        packages.mkdir(parents=True, exist_ok=True)
        (packages / "package.json").write_text(wanted)
        flags = ["--silent", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        subprocess.run(["npm", "install", *flags], cwd=packages, check=True)
        installed.write_text(wanted)
    subprocess.run(["node", HERE / "schema" / "schema.mjs", packages], check=True)


def rules_and_alerts_are_valid():
    subprocess.run(["promtool", "check", "rules", "alerts.yaml"], cwd=HERE, check=True)


def alerts_fire_and_are_silent_when_they_should():
    subprocess.run(["promtool", "test", "rules", "tests/alerts.yaml"], cwd=HERE, check=True)


def result(live, query):
    """The result of a query; fails if the result is empty or only NaN."""
    answer = live.instant(filled(query))
    assert answer, f"no result: {query}"
    assert any(series["value"][1] != "NaN" for series in answer), f"only NaN: {query}"
    return answer


def every_query_of_every_panel_has_a_result(live):
    for board in files().values():
        for panel in panels(board):
            for target in panel["targets"]:
                result(live, target["expr"])


def every_variable_has_values(live):
    for board in files().values():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                selector, label = VALUES.match(filled(variable["query"]["query"])).groups()
                values = live.ask(f"label/{label}/values", **{"match[]": selector})
                assert values, f"${variable['name']} has no values"


def every_rule_and_every_metric_in_it_has_a_result(live):
    known = [rule for group in live.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in known} == set(rules())
    for rule in known:
        assert rule["health"] == "ok", (rule["name"], rule.get("lastError"))
        if rule["type"] == "recording":
            result(live, rule["name"])
        # The result of a silent alert is empty, but the metrics in its query must exist.
        for match in SELECTOR.finditer(rule["query"]):
            result(live, match[0])


def a_healthy_fleet_raises_no_page(live):
    firing = live.instant('ALERTS{alertstate="firing",severity="page"}')
    assert not firing, firing


STATIC = [
    the_boards_are_up_to_date_with_boards_py,
    every_panel_has_a_title_a_unit_and_a_description,
    no_two_panels_overlap,
    boards_link_to_each_other_and_to_the_runbooks,
    every_metric_in_a_query_exists,
    every_alert_has_a_runbook_and_both_cases,
    boards_match_the_types_of_grafana,
    rules_and_alerts_are_valid,
    alerts_fire_and_are_silent_when_they_should,
]
LIVE = [
    every_query_of_every_panel_has_a_result,
    every_variable_has_values,
    every_rule_and_every_metric_in_it_has_a_result,
    a_healthy_fleet_raises_no_page,
]


def passes(check, *arguments):
    """Runs one check and prints its result."""
    title = check.__name__.replace("_", " ")
    try:
        check(*arguments)
    except Exception:
        print(f"FAILED {title}\n{traceback.format_exc()}")
        return False
    print(f"ok     {title}")
    return True


def main():
    outcomes = [passes(check) for check in STATIC]
    with tempfile.TemporaryDirectory() as folder:
        live = Live(Path(folder))
        try:
            load = live.load(LOAD_SECONDS, "--users", "24")
            time.sleep(LOAD_SECONDS - 3)
            outcomes += [passes(check, live) for check in LIVE]
            load.wait()
        finally:
            live.stop()
    print(f"{sum(outcomes)} passed, {len(outcomes) - sum(outcomes)} failed")
    return not all(outcomes)


if __name__ == "__main__":
    sys.exit(main())
