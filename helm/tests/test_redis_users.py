"""The users of the bundled Redis have exactly the rights that the programs use."""

import contextlib
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis

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


class Server:
    """A Redis with the chart's users and a user `test` with all rights."""

    def __init__(self, folder: Path):
        users = users_file(folder)
        with users.open("a") as file:
            file.write("user test on nopass ~* &* +@all\n")
        self.port = free_port()
        arguments = ["--port", str(self.port), "--save", "", "--aclfile", users]
        arguments += ["--bind", "127.0.0.1", "--maxmemory", "200mb"]
        self.process = subprocess.Popen(
            [*DIE_WITH_US, "redis-server", *arguments], cwd=folder, stdout=subprocess.DEVNULL
        )
        self.client = self.as_user("test", "")
        eventually(self.answers, "redis-server answers")

    def answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return self.client.ping()
        return False

    def as_user(self, user: str, password: str) -> redis.Redis:
        return redis.Redis(port=self.port, username=user, password=password, decode_responses=True)

    def url(self, user: str) -> str:
        return f"redis://{user}:{password(user)}@127.0.0.1:{self.port}/0"


def password(user: str) -> str:
    return f"password-of-{user}"


def users_file(folder: Path) -> Path:
    """The file of users that the init container of the Redis pod writes."""
    for place in ("config", "passwords", "users"):
        (folder / place).mkdir()
    rights = chart.the("ConfigMap", "-redis")["data"]["users.acl"]
    (folder / "config/users.acl").write_text(rights)
    for user in ("gateway", "worker", "controller"):
        # A newline at the end, as editors add it to files, is not part of the password.
        (folder / "passwords" / user).write_text(password(user) + "\n" * (user == "worker"))
    (container,) = chart.pod_of(chart.the("StatefulSet", "-redis"))["initContainers"]
    *shell, script = container["command"]
    subprocess.run([*shell, script.replace("/etc/redis", str(folder))], check=True)
    return folder / "users/users.acl"


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.client.close()
    server.process.terminate()
    server.process.wait()


@pytest.fixture
def fleet(server, tmp_path):
    """A gateway and two workers with the Redis URL in a file, as in a cluster. Yields the gateway's
    port and the processes."""
    (tmp_path / "models/echo/1").mkdir(parents=True)
    (tmp_path / "models/echo/config.pbtxt").write_text(ECHO)
    for user in ("gateway", "worker"):
        (tmp_path / user).write_text(server.url(user) + "\n")
    port = free_port()
    commands = [["batchfleet-gateway", "--listen", f"127.0.0.1:{port}", "--lame-duck", "0s"]]
    commands += [["batchfleet-worker", "--model-repository", str(tmp_path / "models")]] * 2
    with contextlib.ExitStack() as running:
        fleet = []
        for number, (program, *arguments) in enumerate(commands):
            log = running.enter_context((tmp_path / f"{number}.log").open("wb"))
            user = tmp_path / program.removeprefix("batchfleet-")
            command = [*DIE_WITH_US, chart.PROGRAMS / program, *arguments, "--redis-url-file", user]
            command += ["--admin-listen", "127.0.0.1:0"]
            fleet.append(subprocess.Popen(command, cwd=chart.ROOT, stdout=log, stderr=log))
        yield port, fleet
        for process in fleet:
            process.kill()
            process.wait()


def load(port: int, *arguments: str) -> subprocess.CompletedProcess:
    """Runs load; the exit status is 1 if an answer is wrong or missing."""
    command = [chart.PROGRAMS / "batchfleet", "load", "--url", f"http://127.0.0.1:{port}"]
    command += ["--model", "echo", "--warm-up", "0s", "--users", "4", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def test_the_rights_are_enough_for_the_programs(server, fleet):
    port, (gateway, worker, other) = fleet
    eventually(lambda: load(port, "--duration", "200ms").returncode == 0, "the fleet answers")
    # Large replies, the death of a worker, a new N, and a Redis that lost all data.
    large = load(port, "--duration", "1s", "--free", "100000", "--inputs", "2")
    worker.kill()
    after_death = load(port, "--duration", "5s")
    publish = [chart.PROGRAMS / "batchfleet", "set-n", "echo", "4", "--redis-url", server.url("controller")]
    published = subprocess.run(publish, capture_output=True, text=True, timeout=PATIENCE)
    server.client.flushdb()
    after_loss = load(port, "--duration", "3s")
    other.terminate()
    gateway.terminate()
    for done in (large, after_death, published, after_loss):
        assert done.returncode == 0, done.stdout + done.stderr
    assert (other.wait(PATIENCE), gateway.wait(PATIENCE)) == (0, 0)
    denied = {(each["username"], each["reason"], each["object"]) for each in server.client.acl_log()}
    assert denied == set()


@pytest.mark.parametrize("user", ["gateway", "worker", "controller"])
@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "KEYS *", "CONFIG GET dir", "EVAL return 0", "SHUTDOWN", "ACL LIST", "MONITOR",
     "SET mine 1", "GET other:key", "SUBSCRIBE other", "XTRIM bf:{m:1}:q:default MAXLEN 0"],
)
def test_other_commands_and_keys_are_denied(server, user, command):
    client = server.as_user(user, password(user))
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())
    client.close()


def test_a_worker_cannot_read_replies(server):
    client = server.as_user("worker", password("worker"))
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.get("bf:{m:1}:parcel:1")
    client.close()


def test_the_default_user_is_off(server):
    client = redis.Redis(port=server.port)
    with pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()
    client.close()
