"""The users of the bundled Redis have exactly the rights that the programs use."""

import contextlib
import subprocess
from pathlib import Path

import pytest
import redis

import chart
import programs
from programs import DIE_WITH_US, PATIENCE, eventually, free_port, load

# A newline at the end, as editors add it to files, is not part of the password.
PASSWORDS = {user: f"password-of-{user}" for user in ("gateway", "worker", "controller")}
FILES = PASSWORDS | {"worker": PASSWORDS["worker"] + "\n"}


class Server:
    """A Redis with the chart's users and a user `test` with all rights."""

    def __init__(self, folder: Path, files: dict[str, str] = FILES, *settings: str, models: str = ""):
        users = programs.users_file(folder, files, *settings, models=models)
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
    return PASSWORDS[user]


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.client.close()
    server.process.terminate()
    server.process.wait()


@pytest.fixture
def fleet(server, tmp_path):
    """The gateway's port and the processes: a gateway and two workers."""
    with programs.fleet(tmp_path, {user: server.url(user) for user in ("gateway", "worker")}, 2) as running:
        yield running


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
    for denied in ("GET bf:{m:1}:parcel:1", "SUBSCRIBE bf:reply:1"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*denied.split())
    client.close()


@pytest.mark.parametrize("models", ["", "user worker.ns.m reset on nopass %R~bf:{m:*}:target +get\n"])
def test_users_of_models_are_those_that_the_controller_has_written(tmp_path, models):
    server = Server(tmp_path, FILES | {"admin": "password-of-admin"}, "redis.modelUsers=true", models=models)
    programs_users = {"default", "gateway", "worker", "controller", "admin", "test"}
    assert set(server.client.acl_users()) == programs_users | ({"worker.ns.m"} if models else set())
    admin = server.as_user("admin", "password-of-admin")
    assert admin.execute_command("ACL", "SETUSER", "worker.ns.n", "on") == "OK"
    assert admin.execute_command("ACL", "DELUSER", "worker.ns.n") == 1
    for denied in ("GET bf:{fleet}:epoch", "PUBLISH bf:reply:0 x", "ACL LIST", "CONFIG GET dir", "FLUSHALL"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            admin.execute_command(*denied.split())
    admin.close()
    server.client.close()
    server.process.terminate()
    server.process.wait()


def test_nobody_may_change_users_unless_models_have_users(server):
    assert "admin" not in server.client.acl_users()


def test_the_default_user_is_off(server):
    client = redis.Redis(port=server.port)
    with pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()
    client.close()
