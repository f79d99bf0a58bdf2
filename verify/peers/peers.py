#!/usr/bin/env python3
"""Compares Batchfleet with other servers of the protocol over gRPC: requests per second and latency of the
same model under the same load, one server at a time, every answer checked.

Usage: peers.py [--only SERVER,...] [--connections N,...] [--seconds S] [--rounds N] [--logs FOLDER]

Each server runs the model on one thread of ONNX Runtime and may batch up to 64 rows. A round visits each
server once, so that other work on the machine affects all of them. The table has medians over the rounds.
Needs the release programs (make build), the models (make models), redis-server and the environments that
`make peers` installs.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from digits import MODEL, MOST_ROWS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROGRAMS = Path(os.environ.get("BATCHFLEET_PROGRAMS", ROOT / "target" / "release"))
MODELS = ROOT / ".cache" / "models"
DIGITS = ROOT / ".cache" / "digits_test.csv"
START = 120  # seconds a server may take to be ready
STOP = 15  # seconds a server may take to end
WARM_UP = 2
PAUSE = 1  # second between two servers


@dataclass
class Ports:
    """Free ports, and what the servers read as their environment."""

    http: int
    grpc: int
    admin: int
    redis: int
    worker: int

    @classmethod
    def free(cls) -> "Ports":
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            return cls(*(one.getsockname()[1] for one in sockets))

    def environment(self) -> dict[str, str]:
        return {"HTTP_PORT": str(self.http), "GRPC_PORT": str(self.grpc), "ADMIN_PORT": str(self.admin)}


def python(venv: str) -> Path:
    return Path(os.environ.get("PEERS_VENVS", ROOT / ".cache")) / f"venv-{venv}" / "bin" / "python"


def local(port: int) -> str:
    return f"127.0.0.1:{port}"


def gateway_flags(ports: Ports) -> list[str]:
    return ["--listen", local(ports.http), "--grpc-listen", local(ports.grpc), "--deadline", "60s"]


def worker_flags() -> list[str]:
    repository = ["--model-repository", str(MODELS), "--model", MODEL]
    return [*repository, "--intra-op-threads", "1", "--max-batch", str(MOST_ROWS)]


def one_process(ports: Ports) -> list[list]:
    admin = ["--admin-listen", local(ports.admin), "--live-page", "off"]
    return [[PROGRAMS / "batchfleet", "serve", *gateway_flags(ports), *worker_flags(), *admin]]


def through_redis(ports: Ports) -> list[list]:
    redis = ["--redis-url", f"redis://{local(ports.redis)}"]
    return [
        ["redis-server", "--bind", "127.0.0.1", "--port", str(ports.redis), "--save", ""],
        [PROGRAMS / "batchfleet-worker", *redis, *worker_flags(), "--admin-listen", local(ports.worker)],
        [PROGRAMS / "batchfleet-gateway", *redis, *gateway_flags(ports), "--admin-listen", local(ports.admin)],
    ]


def triton(ports: Ports) -> list[list]:
    return [[python("peers-triton"), HERE / "serve_triton.py"]]


def kserve(ports: Ports) -> list[list]:
    return [[python("peers-kserve"), HERE / "serve_kserve.py"]]


def mlserver(ports: Ports) -> list[list]:
    return [[python("peers-mlserver").with_name("mlserver"), "start", HERE / "mlserver"]]


OURS = ["batchfleet", "batchfleet-redis"]
SERVERS = {
    "batchfleet": one_process,
    "batchfleet-redis": through_redis,
    "triton": triton,
    "kserve": kserve,
    "mlserver": mlserver,
}


def environment(ports: Ports, name: str) -> dict[str, str]:
    more = {"MODELS": str(MODELS), "PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1"}
    if name == "triton":
        # Triton's stub of Python loads the library of the interpreter.
        more["LD_LIBRARY_PATH"] = str(python("peers-triton").resolve().parent.parent / "lib")
    if name == "mlserver":
        more |= {
            "PYTHONPATH": f"{HERE}:{HERE / 'mlserver'}",
            "MLSERVER_DEBUG": "false",
            "MLSERVER_LOGGING_SETTINGS": str(HERE / "mlserver" / "logging.conf"),
            "MLSERVER_PARALLEL_WORKERS": "1",
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(ports.http),
            "MLSERVER_GRPC_PORT": str(ports.grpc),
            "MLSERVER_METRICS_PORT": str(ports.admin),
        }
    return {**os.environ, **ports.environment(), **more}


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[Ports]:
    """Runs a server until the end of the block."""
    ports = Ports.free()
    log = folder / f"{name}.log"
    processes = []
    with log.open("ab") as output, tempfile.TemporaryDirectory() as cwd:
        try:
            for command in SERVERS[name](ports):
                streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
                variables = environment(ports, name)
                processes.append(
                    subprocess.Popen(command, cwd=cwd, env=variables, start_new_session=True, **streams)
                )
                if command[0] == "redis-server":
                    wait(lambda: connects(ports.redis), processes, log)
            wait(lambda: is_ready(ports), processes, log)
            yield ports
        finally:
            for process in reversed(processes):
                end(process)


def wait(condition, processes: list[subprocess.Popen], log: Path) -> None:
    until = time.monotonic() + START
    while not condition():
        ended = any(process.poll() is not None for process in processes)
        if ended or time.monotonic() > until:
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the server {'has ended' if ended else 'is not ready'}; {log} ends with:\n{tail}")
        time.sleep(0.1)


def connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def is_ready(ports: Ports) -> bool:
    if not connects(ports.grpc):
        return False
    try:
        with urllib.request.urlopen(f"http://{local(ports.http)}/v2/models/{MODEL}/ready", timeout=5):
            return True
    except OSError:
        return False


def end(process: subprocess.Popen) -> None:
    """Ends a process and its children."""
    process.terminate()
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def load(ports: Ports, connections: int, seconds: int) -> dict:
    """Sends the load to a server, and returns the report."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [PROGRAMS / "batchfleet", "load", "--model", MODEL, "--digits", DIGITS, "--json", report.name]
        command += ["--url", f"http://{local(ports.http)}", "--grpc", f"http://{local(ports.grpc)}"]
        command += ["--users", str(connections), "--duration", f"{seconds}s", "--warm-up", f"{WARM_UP}s"]
        done = subprocess.run([*command, "--timeout", "60s"], capture_output=True, text=True)
        text = Path(report.name).read_text()
        if not text:
            raise RuntimeError(f"no report: {done.stderr[-2000:]}")
        return json.loads(text)


def measure(settings: argparse.Namespace, folder: Path) -> dict[tuple[str, int], list[dict]]:
    reports = defaultdict(list)
    for _ in range(settings.rounds):
        for name in settings.only:
            with running(name, folder) as ports:
                for connections in settings.connections:
                    report = load(ports, connections, settings.seconds)
                    reports[name, connections].append(report)
                    print(line(name, connections, report), flush=True)
            time.sleep(PAUSE)
    return reports


def line(name: str, connections: int, report: dict) -> str:
    latency = report["latency_ms"]
    bad = report["wrong"] + report["failed"] + sum(report["refused"].values())
    text = f"{name:<18} {connections:>5} connections {report['rate']:>8.0f} req/s"
    return f"{text}  p50 {latency['p50']:>8.1f} ms  p99 {latency['p99']:>8.1f} ms  {bad} not right"


def median(reports: list[dict]) -> dict:
    """The median of each figure, and the sum of what was not right."""
    latencies = {name: statistics.median(r["latency_ms"][name] for r in reports) for name in ("p50", "p99")}
    sums = {name: sum(report[name] for report in reports) for name in ("wrong", "failed")}
    refused = {"all": sum(sum(report["refused"].values()) for report in reports)}
    rate = statistics.median(report["rate"] for report in reports)
    return {"rate": rate, "latency_ms": latencies, "refused": refused, **sums}


def compare(settings: argparse.Namespace, reports: dict[tuple[str, int], list[dict]]) -> bool:
    """Prints the medians and the goals. Returns whether all goals are met."""
    print()
    met = True
    for connections in settings.connections:
        medians = {name: median(reports[name, connections]) for name in settings.only}
        for name, figures in medians.items():
            print(line(name, connections, figures))
        others = [figures for name, figures in medians.items() if name not in OURS]
        if not others:
            continue
        rate = max(figures["rate"] for figures in others)
        p99 = min(figures["latency_ms"]["p99"] for figures in others)
        for name in (name for name in OURS if name in medians):
            ours = medians[name]
            ahead = ours["rate"] > rate and ours["latency_ms"]["p99"] < p99
            met &= ahead
            ratios = f"{ours['rate'] / rate:.2f} times the best rate, {ours['latency_ms']['p99'] / p99:.2f} times the best p99"
            print(f"{'met    ' if ahead else 'NOT MET'} {name}, {connections} connections: {ratios} of the others")
    return met


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = lambda text: [one.strip() for one in text.split(",")]  # noqa: E731
    parser.add_argument("--only", type=listed, default=list(SERVERS), metavar="SERVER,...")
    parser.add_argument("--connections", type=lambda text: [int(one) for one in text.split(",")], default=[1, 100, 1000])
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--logs", type=Path)
    return parser.parse_args()


def main() -> int:
    chosen = settings()
    with tempfile.TemporaryDirectory() as folder:
        folder = chosen.logs or Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        reports = measure(chosen, folder)
    return 0 if compare(chosen, reports) else 1


if __name__ == "__main__":
    sys.exit(main())
