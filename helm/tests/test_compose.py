"""The compose file names what is there, and runs programs as the chart does."""

import re
import tomllib

import yaml

import chart

DEPLOY = chart.ROOT / "deploy"
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
OURS = ["gateway", "worker"]


def test_every_file_that_is_mounted_is_there():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.rsplit(":", 2)[0]
            if not source.startswith("$"):
                assert (DEPLOY / source).is_file(), source


def test_programs_cannot_write_and_have_no_rights():
    for name in [*OURS, "redis"]:
        service = SERVICES[name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["mem_limit"]


def test_images_are_built_from_targets_of_the_dockerfile():
    dockerfile = (DEPLOY / "images/Dockerfile").read_text()
    for name in OURS:
        assert f" AS {SERVICES[name]['build']['target']}\n" in dockerfile


def test_only_this_machine_reaches_it():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_the_redis_of_the_compose_file_is_that_of_the_chart():
    chart_settings = chart.the("ConfigMap", "-redis")["data"]["redis.conf"]
    command = " ".join(SERVICES["redis"]["command"])
    for setting in ("maxmemory-policy noeviction", "appendonly no", "maxmemory 1gb"):
        assert setting in chart_settings and f"--{setting}" in command
    assert SERVICES["redis"]["image"] in chart.pod_of(chart.the("StatefulSet", "-redis"))["containers"][0]["image"]


def test_prometheus_loads_the_rules_that_are_mounted():
    settings = yaml.safe_load((DEPLOY / "compose/prometheus.yaml").read_text())
    mounted = [volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]]
    assert set(settings["rule_files"]) < set(mounted)


def members():
    return tomllib.loads((chart.ROOT / "Cargo.toml").read_text())["workspace"]["members"]


def test_every_crate_reaches_the_build_of_images():
    sent = (chart.ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{member}" for member in members()} < set(sent)


def test_what_programs_have_within_them_is_part_of_their_crate():
    found = [(member, source, name) for member in members()
             for source in (chart.ROOT / member / "src").rglob("*.rs")
             for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"', source.read_text())]
    assert found
    for member, source, name in found:
        assert (source.parent / name).resolve().is_relative_to(chart.ROOT / member), name
