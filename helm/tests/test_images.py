"""Images reach a cluster under the names that the chart asks for: deploy/images/deliver.sh with programs that only record."""

import os
import shutil
import subprocess

import pytest
import yaml

import chart

RECORDER = '#!/bin/sh\necho "$(basename "$0") $*" >>"$RECORD"\n'
IMAGES = [f"batchfleet/{name}:t1" for name in ("gateway", "controller", "worker", "redis")]


@pytest.fixture
def deliver(tmp_path):
    """Runs deliver.sh; returns its exit status, the commands that it ran, and the file of values that it wrote."""
    programs, scripts, record = tmp_path / "bin", tmp_path / "clone/deploy/images", tmp_path / "record"
    programs.mkdir()
    for name in ("docker", "kind", "k3d", "minikube"):
        (programs / name).write_text(RECORDER)
        (programs / name).chmod(0o755)
    scripts.mkdir(parents=True)
    for name in ("deliver.sh", "engine.sh"):
        shutil.copy(chart.ROOT / "deploy/images" / name, scripts)
    record.touch()

    def run(*arguments, **variables):
        path = f"{programs}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "RECORD": str(record), "TAG": "t1", **variables}
        done = subprocess.run([scripts / "deliver.sh", *arguments], env=environment, timeout=60)
        return done.returncode, record.read_text().splitlines(), tmp_path / "clone/target/images.yaml"

    return run


def last_words(commands, beginning):
    return [command.split()[-1] for command in commands if command.startswith(beginning)]


@pytest.mark.parametrize(("tool", "load"), [
    ("kind", "kind load image-archive"), ("k3d", "k3d image import"), ("minikube", "minikube image load")])
def test_each_image_is_loaded_into_the_named_cluster(deliver, tool, load):
    status, commands, values = deliver("load", tool, CLUSTER="mine")
    assert status == 0
    assert last_words(commands, "docker save") == IMAGES
    assert last_words(commands, load) == ["mine"] * len(IMAGES)
    assert yaml.safe_load(values.read_text()) == {"images": {"tag": "t1", "redis": "batchfleet/redis:t1"}}


def test_the_chart_asks_for_the_images_that_were_pushed(deliver):
    status, commands, values = deliver("push", "r.example.com/ml")
    assert status == 0
    pushed = last_words(commands, "docker push")
    assert pushed == [f"r.example.com/ml/{image}" for image in IMAGES]
    asked = {container["image"] for document in chart.objects(values) if (pod := chart.pod_of(document))
             for container in [*pod["containers"], *pod.get("initContainers", [])]}
    assert asked and asked <= set(pushed)


def test_values_name_the_tag_of_images_that_the_nodes_have(deliver):
    status, commands, values = deliver()
    assert (status, commands) == (0, [])
    assert yaml.safe_load(values.read_text()) == {"images": {"tag": "t1"}}


def test_an_unknown_tool_is_refused_before_anything_else(deliver):
    status, commands, values = deliver("load", "swarm")
    assert (status, commands, values.exists()) == (64, [], False)
