"""The compose file mounts files that exist and runs the programs as the chart does."""

import re
import tomllib

import yaml

import chart

DEPLOY = chart.ROOT / "deploy"
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
OURS = ["gateway", "worker"]


def test_every_mounted_file_exists():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.rsplit(":", 2)[0]
            if not source.startswith("$"):
                assert (DEPLOY / source).is_file(), source


def test_programs_have_a_read_only_filesystem_and_no_capabilities():
    for name in [*OURS, "redis"]:
        service = SERVICES[name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["mem_limit"]


def test_images_are_built_from_targets_of_the_dockerfile():
    dockerfile = (DEPLOY / "images/Dockerfile").read_text()
    for name in OURS:
        assert f" AS {SERVICES[name]['build']['target']}\n" in dockerfile


def test_images_are_those_of_make_images_by_default_and_can_be_those_of_a_registry():
    for name in OURS:
        assert SERVICES[name]["image"] == f"${{IMAGES:-batchfleet}}/{name}:${{TAG:-dev}}"


def test_ports_are_published_on_the_loopback_address_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_the_compose_file_runs_the_redis_of_the_chart_with_its_settings():
    chart_settings = chart.the("ConfigMap", "-redis")["data"]["redis.conf"]
    command = " ".join(SERVICES["redis"]["command"])
    for setting in ("maxmemory-policy noeviction", "appendonly no", "maxmemory 1gb"):
        assert setting in chart_settings and f"--{setting}" in command
    assert SERVICES["redis"]["image"] in chart.pod_of(chart.the("StatefulSet", "-redis"))["containers"][0]["image"]


def test_prometheus_loads_the_mounted_rules():
    settings = yaml.safe_load((DEPLOY / "compose/prometheus.yaml").read_text())
    mounted = [volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]]
    assert set(settings["rule_files"]) < set(mounted)


def members():
    return tomllib.loads((chart.ROOT / "Cargo.toml").read_text())["workspace"]["members"]


def test_every_crate_is_part_of_the_image_build_context():
    sent = (chart.ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{member}" for member in members()} < set(sent)


def test_files_compiled_into_a_program_are_part_of_its_crate():
    found = [(member, source, name) for member in members()
             for source in (chart.ROOT / member / "src").rglob("*.rs")
             for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"', source.read_text())]
    assert found
    for member, source, name in found:
        assert (source.parent / name).resolve().is_relative_to(chart.ROOT / member), name
