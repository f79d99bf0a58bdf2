"""The chart installs the boards and alerts of `dashboards/`, also from a chart package."""

import tarfile

import pytest
import yaml

import chart

SOURCE = chart.ROOT / "dashboards"
BOARDS = ["overview.json", "internals.json"]
RULES = ["alerts.yaml"]


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_is_installed_unchanged(board):
    setting = "monitoring.dashboards.enabled=true"
    config = chart.the("ConfigMap", "-" + board.removesuffix(".json"), setting)
    assert config["data"] == {board: (SOURCE / board).read_text()}
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_all_rules_and_alerts_are_installed():
    groups = chart.the("PrometheusRule", "rel-batchfleet", "monitoring.rules.enabled=true")["spec"]["groups"]
    assert groups == [
        group for name in RULES for group in yaml.safe_load((SOURCE / name).read_text())["groups"]
    ]


def test_the_runbooks_may_be_at_another_address():
    settings = ["monitoring.rules.enabled=true", "monitoring.rules.runbookUrl=https://wiki/batchfleet"]
    groups = chart.the("PrometheusRule", "rel-batchfleet", *settings)["spec"]["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert [alert["annotations"]["runbook_url"] for alert in alerts] == [
        f"https://wiki/batchfleet#{alert['alert'].lower()}" for alert in alerts
    ]


def test_a_chart_package_contains_the_files_and_no_links(tmp_path):
    packaged = chart.helm("package", str(chart.CHART), "--destination", str(tmp_path))
    assert packaged.returncode == 0, packaged.stderr
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        for name in BOARDS + RULES:
            member = archive.extractfile(f"batchfleet/dashboards/{name}")
            assert member.read() == (SOURCE / name).read_bytes()
