"""Runs the real programs on a real Redis."""

import contextlib
import socket
import subprocess
import time
from pathlib import Path

import chart

DIE_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
PATIENCE = 60
ECHO = """backend: "batchfleet_echo"
input [{ name: "input" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "output" data_type: TYPE_FP32 dims: [ -1 ] }]
"""


def eventually(condition, what: str):
    until = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < until, f"not in {PATIENCE} s: {what}"
        time.sleep(0.05)
    return result


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def users_file(folder: Path, passwords: dict[str, str], *settings: str, models: str = "") -> Path:
    """The file of users that the Redis pod writes. `models` are the users of models that the controller has
    written."""
    for place in ("config", "passwords", "users", "models"):
        (folder / place).mkdir()
    rights = chart.the("ConfigMap", "-redis", *settings)["data"]["users.acl"]
    (folder / "config/users.acl").write_text(rights)
    for user, password in passwords.items():
        (folder / "passwords" / user).write_text(password)
    if models:
        (folder / "models/users.acl").write_text(models)
    pod = chart.pod_of(chart.the("StatefulSet", "-redis", *settings))
    for container in pod["initContainers"] + pod["containers"]:
        *shell, script = container["command"]
        script = script.replace("/etc/redis", str(folder)).replace("exec redis-server", "true")
        subprocess.run([*shell, script], check=True)
    return folder / "users/all.acl"


@contextlib.contextmanager
def fleet(folder: Path, urls: dict[str, str], workers: int, *flags: str):
    """Starts a gateway and workers with the Redis URL in a file, as in a cluster. Yields the gateway's
    port and the processes."""
    (folder / "models/echo/1").mkdir(parents=True)
    (folder / "models/echo/config.pbtxt").write_text(ECHO)
    for user, url in urls.items():
        (folder / user).write_text(url + "\n")
    port = free_port()
    commands = [["batchfleet-gateway", "--listen", f"127.0.0.1:{port}", "--lame-duck", "0s"]]
    commands += [["batchfleet-worker", "--model-repository", str(folder / "models")]] * workers
    with contextlib.ExitStack() as running:
        started = []
        for number, (program, *arguments) in enumerate(commands):
            log = running.enter_context((folder / f"{number}.log").open("wb"))
            user = folder / program.removeprefix("batchfleet-")
            command = [*DIE_WITH_US, chart.PROGRAMS / program, *arguments, "--redis-url-file", user]
            command += ["--admin-listen", "127.0.0.1:0", *flags]
            started.append(subprocess.Popen(command, cwd=chart.ROOT, stdout=log, stderr=log))
        yield port, started
        for process in started:
            process.kill()
            process.wait()


def load(port: int, *arguments: str) -> subprocess.CompletedProcess:
    """Runs load; the exit status is 1 if an answer is wrong or missing."""
    command = [chart.PROGRAMS / "batchfleet", "load", "--url", f"http://127.0.0.1:{port}"]
    command += ["--model", "echo", "--warm-up", "0s", "--users", "4", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
