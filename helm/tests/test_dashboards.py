"""Boards and alerts are those of `dashboards/`, also in a package of the chart."""

import tarfile

import pytest
import yaml

import chart

SOURCE = chart.ROOT / "dashboards"
BOARDS = ["overview.json", "internals.json"]
RULES = ["alerts.yaml"]


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_arrives_as_it_is(board):
    setting = "monitoring.dashboards.enabled=true"
    config = chart.the("ConfigMap", "-" + board.removesuffix(".json"), setting)
    assert config["data"] == {board: (SOURCE / board).read_text()}
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_all_rules_and_alerts_arrive():
    groups = chart.the("PrometheusRule", "rel-batchfleet", "monitoring.rules.enabled=true")["spec"]["groups"]
    assert groups == [
        group for name in RULES for group in yaml.safe_load((SOURCE / name).read_text())["groups"]
    ]


def test_a_package_holds_them_and_not_links_to_them(tmp_path):
    packaged = chart.helm("package", str(chart.CHART), "--destination", str(tmp_path))
    assert packaged.returncode == 0, packaged.stderr
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        for name in BOARDS + RULES:
            member = archive.extractfile(f"batchfleet/dashboards/{name}")
            assert member.read() == (SOURCE / name).read_bytes()
