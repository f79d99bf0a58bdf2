"""The questions to a GPU. Each returns its figures and whether the answer is the hoped one; `None`
where this machine cannot tell. On the processor small models, and the faults of the echo engine,
stand in for what a GPU does."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import models
from server import Programs, Server, serving

Answer = tuple[bool | None, dict]


@dataclass(frozen=True)
class Bench:
    """What the questions run on."""

    programs: Programs
    models: Path
    faults: Path  # a repository with an echo model that fails on demand
    size: models.Size
    saboteur: Path | None
    seconds: float  # of each load

    @property
    def on_gpu(self) -> bool:
        return self.programs.device != "cpu"

    def sample(self, name: str, rows: int, seed: int, length: int | None = None) -> np.ndarray:
        random = np.random.default_rng(seed)
        if name.startswith("image"):
            pixels = self.size.pixels
            return random.integers(0, 256, (rows, pixels, pixels, 3))
        return random.integers(0, self.size.words, (rows, length or min(128, self.size.length)))

    def load_flags(self, name: str) -> list[str]:
        length = min(128, self.size.length)
        return [] if name.startswith("image") else ["--free", str(length), "--integers", str(self.size.words - 1)]


def versions(bench: Bench) -> Answer:
    """Are all libraries there?"""
    library, missing = bench.programs.library, []
    files = [library, *library.parent.glob("libonnxruntime_providers_*.so")]
    environment = bench.programs.environment
    for file in files:
        text = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False,
                              env={"PATH": "/usr/bin:/bin", **environment}).stdout
        missing += [f"{file.name}: {line.split()[0]}" for line in text.splitlines() if "not found" in line]
    # Only TensorRT's provider may lack its libraries: it is not asked here.
    needed = [line for line in missing if "tensorrt" not in line]
    figures: dict = {"missing": missing, "program": output(bench.programs.command("--version"))}
    if bench.on_gpu:
        fields = "name,driver_version,memory.total,memory.used,compute_mode,mig.mode.current"
        figures["gpu"] = output(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"])
        figures["cuda"] = "".join(re.findall(r"CUDA Version: (\S+)", output(["nvidia-smi"])))
    return not needed, figures


def output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    except OSError as error:
        return str(error)


def answers(bench: Bench) -> Answer:
    """Are the answers those of the processor?"""
    figures, good = {}, True
    count = 96 if bench.on_gpu else 12

    def ask(server: Server, name: str) -> np.ndarray:
        with ThreadPoolExecutor(16) as pool:
            return np.concatenate(list(pool.map(
                lambda seed: server.infer(bench.sample(name, 1 + seed % 3, seed)), range(count))))

    for name in ("image", "text"):
        with serving(bench.programs, bench.models, name, device="cpu") as server:
            expected = ask(server, name)
        for served in (name, name + "16"):
            if served != name and not bench.on_gpu:
                continue
            with serving(bench.programs, bench.models, served) as server:
                off = float(np.abs(ask(server, served) - expected).max() / np.abs(expected).max())
                notes = server.batching()["notes"]
                memcpy = server.metric("batchfleet_worker_memcpy_nodes")
            figures[served] = {"off": round(off, 5), "notes": notes, "memcpy_nodes": memcpy}
            good &= off < 0.02
    return good, figures


def ways(bench: Bench) -> Answer:
    """Do kept memory and CUDA graphs work, and what do they gain?"""
    figures, good = {}, True
    for name in ("image16", "text16") if bench.on_gpu else ("image", "text"):
        times = {}
        for way, lines in (("plain", parameter("io_binding", "0")), ("kept", parameter("io_binding", "1")),
                           ("graphs", parameter("io_binding", "1") + "optimization { cuda { graphs: true } }\n")):
            with with_config(bench, name, lines), serving(bench.programs, bench.models, name,
                                                          "--max-batch", "8") as server:
                infer_ms = run_ms(server, lambda: server.infer(bench.sample(name, 8, 1)), 30)
                notes = server.batching()["notes"]
            times[way] = {"ms": infer_ms, "notes": notes}
            good &= not any("because the outputs differ" in note for note in notes)
            if bench.on_gpu:
                good &= not any("no memory of their own" in note for note in notes)
        figures[name] = times
    return good, figures


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


class with_config:  # noqa: N801
    """Adds lines to a model's config for a while."""

    def __init__(self, bench: Bench, name: str, lines: str) -> None:
        self.file, self.lines = bench.models / name / "config.pbtxt", lines
        self.before = self.file.read_text() if self.file.exists() else None

    def __enter__(self) -> None:
        self.file.write_text((self.before or "") + self.lines)

    def __exit__(self, *_: object) -> None:
        if self.before is None:
            self.file.unlink()
        else:
            self.file.write_text(self.before)


def run_ms(server: Server, send: Callable[[], object], count: int) -> float:
    """The mean time of a run, in milliseconds, while `send` is called `count` times."""
    def read() -> tuple[float, float]:
        name = "batchfleet_worker_batch_seconds"
        return server.metric(f"{name}_sum"), server.metric(f"{name}_count")
    send()
    before = read()
    for _ in range(count):
        send()
    after = read()
    return round(1000 * (after[0] - before[0]) / max(after[1] - before[1], 1), 4)


def size_changes(bench: Bench) -> Answer:
    """Does a change of the number of rows cost a new plan?"""
    name, sizes = ("image16", (31, 32)) if bench.on_gpu else ("image", (7, 8))
    with serving(bench.programs, bench.models, name, "--batch", str(sizes[1])) as server:
        inputs = [bench.sample(name, rows, rows) for rows in sizes]
        steady = run_ms(server, lambda: server.infer(inputs[1]), 30)
        turns = iter(range(10 ** 6))
        alternating = run_ms(server, lambda: server.infer(inputs[next(turns) % 2]), 30)
        measured = server.batching()["by_worker"][0].get("size_change_ms")
    figures = {"steady_ms": steady, "alternating_ms": alternating, "size_change_ms": measured,
               "times_steady": round(alternating / max(steady, 1e-6), 3)}
    return alternating <= 1.2 * steady if bench.on_gpu else None, figures


def bare(bench: Bench) -> Answer:
    """How long do batches take in ONNX Runtime and in PyTorch?"""
    figures, good = {}, None
    for name in ("image16", "text16", "image", "text") if bench.on_gpu else ("image",):
        command = bench.programs.command("check", str(bench.models), "--model", name, "--onnxruntime",
                                         str(bench.programs.library), "--execution-provider",
                                         bench.programs.device)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
        curve = {int(rows): float(ms) for rows, ms in re.findall(r"^\s*(\d+)\s+([\d.]+) ms\s", done.stdout, re.M)}
        figures[name] = {"onnxruntime_ms": curve or done.stderr[-300:]}
        good = bool(curve) and good is not False
    if bench.on_gpu:
        torch = subprocess.run([sys.executable, str(Path(__file__).with_name("bare_torch.py"))],
                               capture_output=True, text=True, check=False, timeout=180)
        for name, curve in (json.loads(torch.stdout) if torch.returncode == 0 else {}).items():
            figures[name]["torch_ms"] = curve
            rows = max(curve, key=int)
            ours = figures[name]["onnxruntime_ms"].get(int(rows))
            if ours:
                figures[name]["share_of_torch"] = round(curve[rows] / ours, 3)
                good &= curve[rows] / ours >= 0.7
        if torch.returncode:
            figures["torch"] = torch.stderr[-300:]
    return good, figures


def one_size(bench: Bench) -> Answer:
    """Are batches of any size better than padded ones?"""
    name = "image16" if bench.on_gpu else "image"
    figures, good = {}, True
    rates = (200, 2000) if bench.on_gpu else (50,)
    for rate in rates:
        for way, flags in (("any", []), ("one", ["--batch-sizes", "32"])):
            with serving(bench.programs, bench.models, name, *flags) as server:
                report = server.load(bench.seconds, "--rate", str(rate), *bench.load_flags(name))
                worker = server.batching()["by_worker"][0]
            figures[f"{way} at {rate}/s"] = {
                "p50_ms": report["latency_ms"]["p50"], "p99_ms": report["latency_ms"]["p99"],
                "failed": report["failed"], "gain": worker.get("gain")}
        any_size, one = figures[f"any at {rate}/s"], figures[f"one at {rate}/s"]
        good &= any_size["p50_ms"] <= one["p50_ms"] and (any_size["gain"] or 1) < 1.5
    return good if bench.on_gpu else None, figures


def full_load(bench: Bench) -> Answer:
    """Is the GPU busy, and is N right?"""
    name, users = ("image16", 256) if bench.on_gpu else ("image", 32)
    figures = {}
    for batch in ("auto", "8", "16", "32", "64") if bench.on_gpu else ("auto", "8"):
        with serving(bench.programs, bench.models, name, "--batch", batch) as server:
            began, before = time.monotonic(), server.metric("batchfleet_worker_batch_seconds_sum")
            report = server.load(bench.seconds, "--users", str(users), *bench.load_flags(name))
            utilisation = server.metric("nv_gpu_utilization")
            wall, after = time.monotonic() - began, server.metric("batchfleet_worker_batch_seconds_sum")
            worker = server.batching()["by_worker"][0]
        n = worker["n"]
        run = dict(map(tuple, worker["curve"])).get(n)
        figures[batch] = {"per_second": report["rate"], "p99_ms": report["latency_ms"]["p99"], "n": n,
                          "busy": round((after - before) / wall, 3), "nvml": utilisation,
                          "bare_per_second": round(1000 * n / run) if run else None}
    auto = figures["auto"]
    best = max(one["per_second"] for batch, one in figures.items() if batch != "auto")
    figures["auto_of_best"] = round(auto["per_second"] / best, 3)
    good = auto["busy"] >= 0.95 and auto["nvml"] >= 0.95 and auto["per_second"] >= 0.95 * best
    return good if bench.on_gpu else None, figures


def memory(bench: Bench) -> Answer:
    """Does a worker survive a lack of memory?"""
    if not bench.on_gpu:
        with serving(bench.programs, bench.faults, "oom", device="cpu") as server:
            server.infer(np.frombuffer(b"scarcity", np.uint8).reshape(1, 8))
            rows = server.infer(np.zeros((16, 8))).shape[0]
            return out_of_memory(server, rows == 16)
    with serving(bench.programs, bench.models, "text", "--max-batch", "64", "--batch", "64") as server:
        taker = subprocess.Popen([sys.executable, str(Path(__file__).with_name("take_memory.py")), "256"],
                                 stdout=subprocess.PIPE, text=True)
        try:
            assert taker.stdout
            left = taker.stdout.readline().strip()
            inputs = bench.sample("text", 64, 1, bench.size.length)
            answered = server.infer(inputs, timeout=120).shape[0] == 64
        finally:
            taker.terminate()
            taker.wait()
        good, figures = out_of_memory(server, answered)
        return good, figures | {"megabytes_left": left}


def out_of_memory(server: Server, answered: bool) -> Answer:
    errors = server.metric("batchfleet_worker_engine_errors_total", 'class="out_of_memory"')
    text = [line for line in server.log if "out of memory" in line]
    alive = server.process.poll() is None
    figures = {"errors": errors, "answered": answered, "alive": alive, "text": text[0][-400:] if text else None,
               "n": server.batching()["by_worker"][0]["n"]}
    return alive and answered and errors > 0, figures


def lost_device(bench: Bench) -> Answer:
    """Does a worker exit when its device is lost?"""
    if bench.on_gpu and not bench.saboteur:
        return None, {"why": "saboteur.so is missing: it needs a C compiler when the folder is packed"}
    if bench.on_gpu:
        mark = Path(f"/tmp/batchfleet-gpu-lose-{time.monotonic_ns()}")
        environment = {"LD_PRELOAD": str(bench.saboteur), "BATCHFLEET_GPU_LOSE_WHEN": str(mark)}
        server = Server(bench.programs, bench.models, "image16", "--max-batch", "4", environment=environment)
        inputs = bench.sample("image16", 1, 1)
    else:
        server = Server(bench.programs, bench.faults, "fatal", device="cpu")
        inputs = np.frombuffer(b"lose me!", np.uint8).reshape(1, 8)
    try:
        server.wait_until_ready()
        if bench.on_gpu:
            mark.touch()
        ends = time.monotonic() + 30
        while server.process.poll() is None and time.monotonic() < ends:
            try:
                server.infer(inputs, timeout=5)
            except (OSError, RuntimeError):
                time.sleep(0.1)
        status = server.process.poll()
    finally:
        server.stop()
        if bench.on_gpu:
            mark.unlink(missing_ok=True)
    server.reader.join(5)
    return status == 71, {"exit_status": status, "last_words": server.last_words()[-600:]}


QUESTIONS: list[tuple[str, Callable[[Bench], Answer]]] = [
    ("versions", versions), ("answers", answers), ("ways", ways), ("size_changes", size_changes),
    ("bare", bare), ("one_size", one_size), ("full_load", full_load), ("memory", memory),
    ("lost_device", lost_device),
]
