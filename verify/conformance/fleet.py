"""Starts the programs as a user would, each on free ports."""

import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import redis

import repository
from wire import ask

PROGRAMS = Path(os.environ.get("BATCHFLEET_PROGRAMS", repository.ROOT / "target" / "debug"))
KINDS = ["standalone", "redis"]  # one process; a gateway, a worker and Redis
START = 60  # seconds a debug build may take to load and warm up every model
STOP = 15
ANY_PORT = "127.0.0.1:0"
RESET_PEAK = "5"  # written into clear_refs, resets VmHWM
DIE_WITH_US = ["setpriv", "--pdeathsig", "KILL"]  # even if this process is killed


class Program:
    """A running program with a log file."""

    def __init__(self, folder: Path, name: str, *arguments: str):
        path = PROGRAMS / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run `cargo build --workspace`")
        self.name = name
        self.log = folder / f"{name}-{time.monotonic_ns()}.log"
        command = [*DIE_WITH_US, path, *arguments, "--admin-listen", ANY_PORT]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=repository.ROOT, stdout=log, stderr=log)

    def records(self) -> list[dict]:
        """The log so far; each line must be one JSON object."""
        lines = self.log.read_bytes().split(b"\n")[:-1]  # the last line may be incomplete
        return [json.loads(line) for line in lines]

    def address(self, port_name: str) -> str:
        """The address of a port, once the program listens on it."""

        def find() -> str | None:
            self.check_alive()
            listening = [
                record for record in self.records() if record.get("message") == "listening"
            ]
            return next((r["address"] for r in listening if r["port_name"] == port_name), None)

        return eventually(find, f"{self.name} logs the address of its port {port_name}", self.tail)

    def check_alive(self) -> None:
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def memory(self, field: str) -> int:
        """A memory field of /proc/PID/status, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) * 1024

    @contextlib.contextmanager
    def growth_within(self, limit: int):
        """Fails if the program's memory grows by more than `limit` bytes within the block."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text(RESET_PEAK)
        before = self.memory("VmRSS")
        yield
        growth = self.memory("VmHWM") - before
        assert growth <= limit, f"{self.name} grew by {growth} bytes"

    def kill(self) -> None:
        """Kills the program, as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Sends SIGTERM; the program must drain and exit with status 0."""
        self.process.terminate()
        try:
            status = self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert status == 0, f"{self.name} ended with {status} after SIGTERM:\n{self.tail()}"


class Redis:
    """The fleet's own redis-server."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}"
        settings = ["--bind", "127.0.0.1", "--port", str(port), "--save", ""]
        self.process = subprocess.Popen(
            [*DIE_WITH_US, "redis-server", *settings], cwd=folder, stdout=subprocess.DEVNULL
        )
        self.client = redis.Redis(port=port, decode_responses=True)
        eventually(self.answers, "redis-server answers")

    def answers(self) -> bool:
        try:
            return self.client.ping()
        except redis.ConnectionError:
            return False

    def left_over(self) -> dict[str, int]:
        """The number of jobs in each queue that is not empty."""
        queues = list(self.client.scan_iter("bf:*:q:*"))
        assert queues, "Redis should hold the models' queues"
        left = {}
        for queue in queues:
            pending = sum(group["pending"] for group in self.client.xinfo_groups(queue))
            left[queue] = self.client.xlen(queue) + pending
        return {queue: count for queue, count in left.items() if count}

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(STOP)


class Fleet:
    """Servers with every model of the suite, behind one address."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        settings: tuple[str, ...] = (),
        write=repository.write,
        max_body: int = 64 << 20,
        worker: tuple[str, ...] = (),
    ):
        self.folder = folder
        self.repository = folder / "repository"
        self.repository.mkdir()
        self.models = write(self.repository)
        self.max_body = max_body
        self.worker = worker
        self.redis: Redis | None = None
        self.programs: list[Program] = []
        try:
            self.start(kind, settings)
        except BaseException:
            self.kill()
            raise

    def start(self, kind: str, settings: tuple[str, ...]) -> None:
        self.redis = Redis(self.folder) if kind == "redis" else None
        self.front = self.start_front("--max-body", str(self.max_body), *settings)
        if self.redis:
            self.serve(self.repository)
        self.http = self.front.address("http")
        self.grpc = self.front.address("grpc")
        self.admin = self.front.address("admin")
        self.wait_for(*self.models)

    def start_front(self, *settings: str) -> Program:
        """Starts the program for clients: a gateway, or `batchfleet serve`."""
        ports = ("--listen", ANY_PORT, "--grpc-listen", ANY_PORT)
        settings = (*ports, "--lame-duck", "0s", *settings)
        if self.redis:
            return self.run("batchfleet-gateway", *settings, "--redis-url", self.redis.url)
        models = ("--model-repository", str(self.repository))
        return self.run("batchfleet", "serve", *settings, *models, *self.worker)

    def run(self, name: str, *arguments: str) -> Program:
        program = Program(self.folder, name, *arguments)
        self.programs.append(program)
        return program

    def serve(self, models: Path) -> Program:
        """Starts another worker, for the models of a repository."""
        where = ("--redis-url", self.redis.url, "--model-repository", str(models))
        return self.run("batchfleet-worker", *where, *self.worker)

    def wait_for(self, *models: str) -> None:
        def ready() -> bool:
            for program in self.programs:
                program.check_alive()
            paths = ["/v2/health/ready", *(f"/v2/models/{model}/ready" for model in models)]
            return all(ask(self.http, "GET", path).status == 200 for path in paths)

        eventually(ready, "every model is ready", self.programs[-1].tail)

    def metrics(self, name: str) -> dict[str, float]:
        """The samples whose names begin with `name`: values by name and labels."""
        lines = ask(self.admin, "GET", "/metrics").body.decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line.startswith(name))
        return {sample: float(value) for sample, value in samples}

    def records(self) -> list[dict]:
        """The logs of all programs so far."""
        return [record for program in self.programs for record in program.records()]

    def left_over(self) -> dict[str, float]:
        """Unfinished work: jobs by queue, requests in flight by model."""
        in_flight = self.metrics("batchfleet_gateway_in_flight")
        assert in_flight, "the metric batchfleet_gateway_in_flight should be there"
        jobs = self.redis.left_over() if self.redis else {}
        return {name: count for name, count in {**jobs, **in_flight}.items() if count}

    def stop(self) -> None:
        """Stops all programs, the gateway before its workers; each must exit with status 0."""
        try:
            while self.programs:
                self.programs.pop(0).stop()
        finally:
            self.kill()

    def kill(self) -> None:
        for program in self.programs:
            program.kill()
        if self.redis:
            self.redis.stop()


@contextlib.contextmanager
def running(folder: Path, kind: str, **options):
    """A running fleet. Fails if a request is unfinished at the end."""
    fleet = Fleet(folder, kind, **options)
    try:
        yield fleet
        eventually(
            lambda: not fleet.left_over(), "every request is done", fleet.left_over, seconds=5
        )
    finally:
        fleet.stop()


def eventually(condition, what: str, details=lambda: "", seconds: float = START):
    """Polls `condition` until its result is true, and returns the result."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds} s not yet: {what}\n{details()}")
        time.sleep(0.02)
    return found
