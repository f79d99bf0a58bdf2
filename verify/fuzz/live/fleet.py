"""Runs the real programs on a real Redis, and judges them when the fuzzing has ended."""

import argparse
import contextlib
import http.client
import json
import os
import socket
import struct
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(os.environ.get("BATCHFLEET_PROGRAMS", ROOT / "target/debug"))
DIE_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
PATIENCE = 60  # seconds for a debug build to start
MODELS = ("a", "b")
ECHO = """backend: "batchfleet_echo"
input [{ name: "input" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "output" data_type: TYPE_FP32 dims: [ -1 ] }]
"""


def eventually(condition, what: str, patience: float = PATIENCE):
    until = time.monotonic() + patience
    while not (result := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"not in {patience} s: {what}")
        time.sleep(0.05)
    return result


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def arguments(description: str) -> argparse.Namespace:
    """The arguments of a fuzzer, which are printed, so that a run can be repeated."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parsed = parser.parse_args()
    print(f"seed {parsed.seed}, {parsed.seconds:.0f} s", flush=True)
    return parsed


class Program:
    """A running program with a log file."""

    def __init__(self, name: str, command: list, log: Path, environment: dict | None = None):
        self.name, self.log = name, log
        with log.open("wb") as file:
            command = [*DIE_WITH_US, *map(str, command)]
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=file, stderr=file, env=os.environ | (environment or {})
            )

    def rss(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def records(self) -> list[dict]:
        lines = self.log.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith(b"{")]

    def address(self, port_name: str) -> tuple[str, int]:
        def find():
            self.check()
            for record in self.records():
                if record.get("message") == "listening" and record["port_name"] == port_name:
                    return record["address"]
            return None

        host, port = eventually(find, f"{self.name} listens for {port_name}").rsplit(":", 1)
        return host, int(port)

    def check(self):
        """Fails if the program has ended, panicked or written something that is not its log."""
        tail = self.log.read_text(errors="replace")[-2000:]
        status = self.process.poll()
        assert status is None, f"{self.name} ended with {status}: {tail}"
        if self.name == "redis":
            return
        # The writer of the log may be in the middle of the last line.
        strange = [line for line in self.log.read_bytes().split(b"\n")[:-1] if not line.startswith(b"{")]
        assert not strange, f"{self.name} wrote {strange[:5]}"
        panics = [each for each in self.records() if "panic" in str(each.get("message"))]
        assert not panics, f"{self.name}: {panics[:3]}"

    def metrics(self) -> dict[str, float]:
        """The metrics by name, summed over labels."""
        sums: dict[str, float] = {}
        for line in http_get(self.address("admin"), "/metrics")[1].decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.split("{")[0].split()[0], line.rsplit(" ", 1)[1]
                sums[name] = sums.get(name, 0) + float(value)
        return sums


def http_get(address: tuple[str, int], path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=20)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def ask(address: tuple[str, int], model: str, numbers: list[float]) -> tuple[int, list[float]]:
    """Asks an echo model. Returns the status and the output."""
    tensor = {"name": "input", "shape": [1, len(numbers)], "datatype": "FP32", "data": numbers}
    connection = http.client.HTTPConnection(*address, timeout=30)
    body = json.dumps({"inputs": [tensor]})
    headers = {"content-type": "application/json", "x-request-timeout-ms": "5000"}
    connection.request("POST", f"/v2/models/{model}/infer", body, headers)
    answer = connection.getresponse()
    read = json.loads(answer.read())
    connection.close()
    if answer.status != 200:
        assert isinstance(read.get("error"), str) and answer.getheader("x-error-code"), read
        return answer.status, []
    return 200, read["outputs"][0]["data"]


@contextlib.contextmanager
def fleet(folder: Path, *more_flags: str):
    """A Redis, a gateway and a worker for each model. Yields the port of Redis and the programs."""
    redis = free_port()
    for model in MODELS:
        (folder / f"models/{model}/1").mkdir(parents=True)
        (folder / f"models/{model}/config.pbtxt").write_text(ECHO)
    server = ["redis-server", "--port", redis, "--save", "", "--maxmemory", "512mb", "--dir", folder]
    started = [Program("redis", server, folder / "redis.log")]
    common = ["--redis-url", f"redis://127.0.0.1:{redis}/0", "--admin-listen", "127.0.0.1:0"]
    gateway = [PROGRAMS / "batchfleet-gateway", "--listen", "127.0.0.1:0", "--lame-duck", "0s", *common, *more_flags]
    started.append(Program("gateway", gateway, folder / "gateway.log"))
    for model in MODELS:
        worker = [PROGRAMS / "batchfleet-worker", "--model-repository", folder / "models", "--model", model, *common]
        started.append(Program(f"worker {model}", worker, folder / f"worker-{model}.log"))
    try:
        public = started[1].address("http")
        for model in MODELS:
            eventually(lambda: ask(public, model, [1.0])[0] == 200, f"model {model} answers")
        yield redis, started
    finally:
        for program in started:
            program.process.kill()
            program.process.wait()


class Redis:
    """A connection to Redis that can send any command."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.file = self.socket.makefile("rb")

    def call(self, *arguments):
        """Returns the answer; errors of Redis as text."""
        parts = [a if isinstance(a, bytes) else str(a).encode() for a in arguments]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
        return self.read()

    def read(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.file.read(size + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.read() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        assert kind in (b"+", b"-"), line
        return rest.decode(errors="replace")

    def close(self):
        self.socket.close()


def reset(connection: socket.socket):
    """Closes with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
