"""A fleet of real programs on this machine, under load and scraped by a real Prometheus.

Redis, gateways, workers with an echo model, the controller with a fake API server (`apiserver.py`),
and Prometheus with the alerts of this folder. All listen on free ports of 127.0.0.1; `stop` ends them.
"""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import apiserver

HERE = Path(__file__).parent
PROGRAMS = Path(os.environ.get("BATCHFLEET_PROGRAMS", HERE.parent / "target" / "debug"))
PATIENCE = 60
ECHO = """backend: "batchfleet_echo"
max_batch_size: 64
input [{ name: "INPUT0" data_type: TYPE_UINT8 dims: [ -1 ] }]
output [{ name: "OUTPUT0" data_type: TYPE_UINT8 dims: [ -1 ] }]
parameters { key: "batch_ms" value { string_value: "12" } }
parameters { key: "row_ms" value { string_value: "8" } }
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, condition):
    """Waits for a truthy value of `condition` and returns it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"not within {PATIENCE} s: {what}")


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()


class Live:
    """The running fleet. `programs` maps names to processes, `admin` maps names to admin addresses."""

    def __init__(self, folder: Path, gateways=2, workers=2):
        self.folder = folder
        self.programs: dict[str, subprocess.Popen] = {}
        self.admin: dict[str, str] = {}
        self.urls = []
        redis = free_port()
        self.redis = f"redis://127.0.0.1:{redis}"
        memory = ["--maxmemory", "256mb", "--maxmemory-policy", "noeviction"]
        self.start("redis", "redis-server", "--port", str(redis), "--bind", "127.0.0.1",
                   "--save", "", *memory)
        model = folder / "models" / "echo" / "1"
        model.mkdir(parents=True)
        (model.parent / "config.pbtxt").write_text(ECHO)
        for _ in range(workers):
            self.add_worker()
        for number in range(1, gateways + 1):
            self.start_ours(f"gateway-{number}", "batchfleet-gateway", "--listen", "127.0.0.1:0",
                           "--deadline", "1s")
            self.urls.append(self.address(f"gateway-{number}", "http"))
        self.api = apiserver.start()
        config = folder / "kubeconfig"
        config.write_text(apiserver.kubeconfig(self.api))
        self.start_ours("controller", "batchfleet-controller", "--namespace", apiserver.NAMESPACE,
                        environment={"KUBECONFIG": str(config)})
        for url in self.urls:
            until("the model is ready", lambda url=url: get(f"http://{url}/v2/models/echo/ready") or "yes")
        self.watch()

    def start(self, name, *command, environment=None):
        with (self.folder / f"{name}.log").open("wb") as log:
            # setpriv ends the programs with this process, even if it is killed.
            self.programs[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log,
                cwd=self.folder, env={**os.environ, **(environment or {})})

    def start_ours(self, name, program, *flags, environment=None):
        common = ["--redis-url", self.redis, "--admin-listen", "127.0.0.1:0"]
        self.start(name, str(PROGRAMS / program), *common, *flags, environment=environment)
        self.admin[name] = self.address(name, "admin")

    def add_worker(self):
        name = f"worker-{1 + sum(name.startswith('worker') for name in self.programs)}"
        self.start_ours(name, "batchfleet-worker", "--model-repository", str(self.folder / "models"),
                        "--slo-p99", "500ms")
        until(f"{name} is ready", lambda: get(f"http://{self.admin[name]}/readyz"))

    def address(self, name, port):
        """The address of a port of a program, from the program's log."""
        log = self.folder / f"{name}.log"

        def listening():
            if self.programs[name].poll() is not None:
                raise RuntimeError(f"{name} ended:\n{log.read_text()[-2000:]}")
            for line in log.read_text().splitlines():
                if line.startswith("{") and '"listening"' in line:
                    entry = json.loads(line)
                    if entry["port_name"] == port:
                        return entry["address"]

        return until(f"{name} listens", listening)

    def watch(self):
        """Starts Prometheus with its targets in a file, which `write_targets` updates."""
        port = free_port()
        self.prometheus = f"http://127.0.0.1:{port}"
        config = self.folder / "prometheus.yaml"
        config.write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(HERE / "alerts.yaml")],
            "scrape_configs": [{
                "job_name": "batchfleet",
                "file_sd_configs": [{"files": [str(self.folder / "targets.json")], "refresh_interval": "1s"}],
            }],
        }))
        self.write_targets()
        self.start("prometheus", "prometheus", f"--config.file={config}",
                   f"--storage.tsdb.path={self.folder / 'tsdb'}",
                   f"--web.listen-address=127.0.0.1:{port}")
        until("Prometheus is ready", lambda: get(f"{self.prometheus}/-/ready"))

    def write_targets(self):
        """Writes the scrape targets. Instances are the program's names, so that the boards are readable."""
        targets = [
            {"targets": [address],
             "labels": {"namespace": apiserver.NAMESPACE, "instance": name}}
            for name, address in self.admin.items()
        ]
        (self.folder / "targets.json").write_text(json.dumps(targets))

    def load(self, seconds, *flags):
        """Starts a load of `seconds` and returns its process."""
        urls = ",".join(f"http://{url}" for url in self.urls)
        report = self.folder / "report.json"
        command = [str(PROGRAMS / "batchfleet"), "load", "--model", "echo", "--url", urls,
                   "--duration", f"{seconds}s", "--warm-up", "0s", "--json", str(report), *flags]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(self, path, **parameters):
        """Calls the API of Prometheus; raises its error text on failure."""
        url = f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            return json.loads(get(url))["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.loads(error.read()).get("error", "an error")) from None

    def instant(self, query):
        return self.ask("query", query=query)["result"]

    def kill(self, name):
        """Kills a program and removes it from the scrape targets, as if its pod had crashed."""
        self.programs[name].kill()
        self.programs[name].wait()
        del self.admin[name]
        self.write_targets()

    def stop(self):
        for program in reversed(self.programs.values()):
            if program.poll() is None:
                program.send_signal(signal.SIGCONT)
                program.terminate()
        for program in self.programs.values():
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        self.api.shutdown()
