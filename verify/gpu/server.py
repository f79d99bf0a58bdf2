"""Starts the programs, sends requests, and reads metrics."""

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TYPES = {"UINT8": np.uint8, "INT64": np.int64, "FP32": np.float32}


@dataclass(frozen=True)
class Programs:
    """Where the programs are, and how models run."""

    program: Path
    library: Path
    device: str  # cuda or cpu
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        return [str(self.program), *arguments]

    def serving(self, models: Path, name: str, device: str | None = None) -> list[str]:
        """The flags of every command that loads models."""
        return ["--model-repository", str(models), "--model", name, "--onnxruntime", str(self.library),
                "--execution-provider", device or self.device]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """`batchfleet serve` with one model."""

    def __init__(self, programs: Programs, models: Path, name: str, *flags: str,
                 device: str | None = None, environment: dict[str, str] | None = None) -> None:
        self.name, self.programs = name, programs
        port, admin = free_port(), free_port()
        self.url, self.admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"
        command = programs.command("serve", "--listen", f"127.0.0.1:{port}", "--admin-listen",
                                   f"127.0.0.1:{admin}", "--sentinel-interval", "0s",
                                   *programs.serving(models, name, device), *flags)
        environment = os.environ | programs.environment | (environment or {})
        self.log: list[str] = []
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                        text=True, env=environment)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        self.log.extend(self.process.stderr)

    def wait_until_ready(self, seconds: float = 180) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                self.reader.join(5)
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.last_words()}")
            with contextlib.suppress(OSError):
                if get(f"{self.admin}/readyz", 2):
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} is not ready after {seconds} s: {self.last_words()}")

    def last_words(self) -> str:
        return " | ".join(line.strip() for line in self.log[-4:])[-1500:]

    def metric(self, name: str, label: str = "") -> float:
        """The sum of the series of this name whose labels contain `label`."""
        series = re.compile(rf"^{re.escape(name)}(\{{.*\}})? (\S+)$", re.M)
        found = series.finditer(get(f"{self.admin}/metrics", 5).decode())
        return sum(float(value) for labels, value in (match.groups() for match in found)
                   if label in (labels or ""))

    def batching(self) -> dict:
        return json.loads(get(f"{self.url}/v2/models/{self.name}/batching", 5))

    def infer(self, array: np.ndarray, timeout: float = 60) -> np.ndarray:
        """The first output of one request."""
        model = json.loads(get(f"{self.url}/v2/models/{self.name}", 5))
        tensor = model["inputs"][0]
        body = array.astype(TYPES[tensor["datatype"]]).tobytes()
        head = json.dumps({
            "inputs": [{"name": tensor["name"], "datatype": tensor["datatype"],
                        "shape": list(array.shape), "parameters": {"binary_data_size": len(body)}}],
            "parameters": {"binary_data_output": True}}).encode()
        request = urllib.request.Request(
            f"{self.url}/v2/models/{self.name}/infer", data=head + body, method="POST",
            headers={"Inference-Header-Content-Length": str(len(head)),
                     "Content-Type": "application/octet-stream"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                length = int(response.headers["Inference-Header-Content-Length"])
                answer = response.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{error.code}: {error.read().decode()[:500]}") from error
        output = json.loads(answer[:length])["outputs"][0]
        return np.frombuffer(answer[length:], TYPES[output["datatype"]], count=int(np.prod(output["shape"]))
                             ).reshape(output["shape"])

    def load(self, seconds: float, *flags: str) -> dict:
        """Sends load, and returns the report."""
        report = Path(f"/tmp/batchfleet-gpu-{os.getpid()}-{free_port()}.json")
        command = self.programs.command(
            "load", "--url", self.url, "--model", self.name, "--duration", f"{seconds}s", "--warm-up", "1s",
            "--inputs", "16", "--verify=false", "--free", "64", "--json", str(report), *flags)
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
        if not report.exists():
            raise RuntimeError(f"load ended with {done.returncode}: {done.stderr[-500:]}")
        result = json.loads(report.read_text())
        report.unlink()
        return result

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def serving(programs: Programs, models: Path, name: str, *flags: str, **options: object) -> Iterator[Server]:
    server = Server(programs, models, name, *flags, **options)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def get(url: str, timeout: float) -> bytes:
    with urllib.request.urlopen(url, timeout=timeout) as response:
        return response.read()
