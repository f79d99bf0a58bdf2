#!/usr/bin/env python3
"""Writes junk under every key of the product in Redis, against a real gateway, worker and controller.

Usage: fuzz_redis.py [--seconds 60] [--seed N]

Wrong types, truncated and changed copies of real values, huge values, unknown versions, lost keys and groups,
junk in channels. Meanwhile every answer must be right or an error, in time. Afterwards Redis is emptied, the
fleet must serve again within 30 seconds, and no program may have ended, panicked or grown.
"""

import http.client
import json
import random
import struct
import tempfile
import threading
import time
from collections import Counter, deque
from pathlib import Path

from fleet import MODELS, PROGRAMS, Program, Redis, arguments, ask, eventually, fleet
from kubernetes import api_server

CLIENTS = 6
GROWTH_MIB = 64
RECOVERY = 30
QUEUES = [f"{model}:1" for model in MODELS] + ["ghost:1", "a:18446744073709551616", "a", ":", "a:1:2", "\0:1"]
CLASSES = ["critical", "default", "sheddable"]
NUMBERS = [0, -1, 1e308, 2**64, 2**63, 1e-320, "NaN", None, True, [], {}, "", "\0", "ü" * 70000]


class Fuzzer:
    """Writes junk until the time is over."""

    def __init__(self, seed: str, port: int, counts: Counter):
        self.random, self.redis, self.counts = random.Random(seed), Redis(port), counts
        self.gateways, self.workers = ["0" * 32], ["0" * 32]
        # A program that may write jobs into Redis decides what a model computes, as SECURITY.md says.
        self.forged = deque(maxlen=10_000)

    def run(self, until: float, findings: list):
        try:
            while time.monotonic() < until:
                self.step()
                # In every third second the fleet may serve.
                pause = 0.02 if int(time.monotonic()) % 3 else 0.3
                time.sleep(self.random.random() * pause)
        except Exception as error:
            findings.append(f"the fuzzer itself failed: {error!r}")
        self.redis.close()

    def step(self):
        choose = self.random
        if choose.random() < 0.1:
            self.learn()
        name = choose.choice(["retype", "change_hash", "change_hash", "change_hash", "enqueue", "enqueue", "copy_job",
                              "publish", "lose", "groups", "settle", "text", "flush"])
        if name == "flush" and choose.random() < 0.9:
            return
        self.counts[name] += 1
        getattr(self, name)()

    def learn(self):
        """Reads the ids of the programs that run."""
        for key in self.redis.call("KEYS", "bf:{fleet}:*:*") or []:
            kind, name = key.decode(errors="replace").split(":")[-2:]
            {"gateway": self.gateways, "live": self.workers}.get(kind, []).append(name)
        self.gateways, self.workers = self.gateways[-5:], self.workers[-10:]

    def key(self) -> str:
        choose, queue = self.random, self.random.choice(QUEUES)
        return choose.choice([
            "bf:{fleet}:workers", "bf:{fleet}:queues", "bf:{fleet}:promises", "bf:{fleet}:traffic", "bf:{fleet}:epoch",
            f"bf:{{fleet}}:gateway:{choose.choice(self.gateways)}", f"bf:{{fleet}}:live:{choose.choice(self.workers)}",
            f"bf:{{{queue}}}:q:{choose.choice(CLASSES)}", f"bf:{{{queue}}}:workers", f"bf:{{{queue}}}:dead",
            f"bf:{{{queue}}}:target", f"bf:{{{queue}}}:parcel:{choose.getrandbits(128):032x}",
        ])

    def junk(self) -> bytes:
        choose = self.random
        match choose.randrange(6):
            case 0:
                return choose.randbytes(choose.choice([0, 1, 40, 4000]))
            case 1:
                return b"x" * choose.choice([1 << 16, 1 << 20, 4 << 20])
            case 2:
                return b"[" * choose.choice([10, 100_000])
            case 3:
                return b"127.0.0.1:" + str(choose.choice([1, 0, 99999])).encode()
            case _:
                return json.dumps({"version": choose.choice(NUMBERS), "worker": choose.choice(NUMBERS)}).encode()

    def changed(self, data: bytes) -> bytes:
        """A copy of a real value with some bytes, or some fields, that are not."""
        choose = self.random
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            document = None
        if document is not None and choose.random() < 0.6:
            for _ in range(choose.randint(1, 3)):
                self.change_field(document)
            return json.dumps(document).encode()
        data = bytearray(data)
        for _ in range(choose.randint(1, 4)):
            at = choose.randrange(len(data) + 1)
            match choose.randrange(4):
                case 0:
                    del data[at:]
                case 1:
                    data[at : at + 1] = choose.randbytes(1)
                case 2:
                    data[at:at] = choose.randbytes(choose.choice([1, 8, 1000]))
                case 3:
                    del data[at : at + choose.randint(1, 30)]
        return bytes(data)

    def change_field(self, document):
        choose = self.random
        while isinstance(document, dict | list) and document:
            key = choose.choice(list(document) if isinstance(document, dict) else range(len(document)))
            inner = document[key]
            if isinstance(inner, dict | list) and inner and choose.random() < 0.7:
                document = inner
                continue
            if isinstance(document, dict) and choose.random() < 0.2:
                del document[key]
            else:
                document[key] = choose.choice(NUMBERS)
            return

    def retype(self):
        key, value = self.key(), self.junk()
        self.redis.call("DEL", key)
        self.redis.call(*self.random.choice([
            ("SET", key, value), ("LPUSH", key, value), ("HSET", key, "f", value), ("SADD", key, value),
            ("ZADD", key, 1, value), ("XADD", key, "*", "f", value), ("PFADD", key, "x"), ("SETBIT", key, 99999, 1),
        ]))

    def change_hash(self):
        choose = self.random
        key = choose.choice(["bf:{fleet}:workers", "bf:{fleet}:promises", "bf:{fleet}:traffic", "bf:{a:1}:workers",
                             "bf:{b:1}:workers"])
        known = self.redis.call("HGETALL", key)
        if isinstance(known, list) and len(known) > 1:
            at = choose.randrange(len(known) // 2) * 2
            names = [known[at], choose.randbytes(8), f"ghost-{choose.randrange(50)}"]
            self.redis.call("HSET", key, choose.choice(names), self.changed(known[at + 1]))
        else:
            self.redis.call("HSET", key, f"ghost-{choose.randrange(50)}", self.junk())
        self.redis.call("SADD", "bf:{fleet}:queues", choose.choice(QUEUES))

    def stream(self) -> str:
        return f"bf:{{{self.random.choice(MODELS)}:1}}:q:{self.random.choice(CLASSES)}"

    def enqueue(self):
        field = self.random.choice(["j", "j", "x"])
        more = ["y", "z"] if self.random.random() < 0.2 else []
        self.redis.call("XADD", self.stream(), "*", field, self.junk(), *more)

    def copy_job(self):
        """Adds changed copies of the jobs that wait."""
        stream = self.stream()
        entries = self.redis.call("XRANGE", stream, "-", "+", "COUNT", 3)
        for entry in entries if isinstance(entries, list) else []:
            _, fields = entry
            job = self.changed(fields[1])
            self.forged.append(job)
            self.redis.call("XADD", stream, "*", "j", job)

    def publish(self):
        channel = self.random.choice([f"bf:reply:{self.random.choice(self.gateways)}", "bf:{a:1}:target", "bf:{b:1}:target"])
        self.redis.call("PUBLISH", channel, self.junk())

    def lose(self):
        self.redis.call("DEL", self.key())

    def groups(self):
        stream = self.stream()
        self.redis.call(*self.random.choice([
            ("XGROUP", "DESTROY", stream, "workers"), ("XGROUP", "CREATE", stream, "workers", "$", "MKSTREAM"),
            ("XGROUP", "SETID", stream, "workers", "0"), ("XTRIM", stream, "MAXLEN", 0),
            ("XREADGROUP", "GROUP", "workers", "ghost", "COUNT", 5, "STREAMS", stream, ">"),
            ("XGROUP", "CREATECONSUMER", stream, "workers", self.random.randbytes(9)),
        ]))

    def settle(self):
        stream = self.stream()
        entries = self.redis.call("XRANGE", stream, "-", "+", "COUNT", 3)
        for entry in entries if isinstance(entries, list) else []:
            self.redis.call(*self.random.choice([("XDEL", stream), ("XACK", stream, "workers")]), entry[0])

    def text(self):
        key = self.random.choice(["bf:{fleet}:epoch", "bf:{a:1}:target", "bf:{b:1}:target", self.key()])
        old = self.redis.call("GET", key)
        self.redis.call("SET", key, self.changed(old) if isinstance(old, bytes) and old else self.junk())

    def flush(self):
        self.redis.call("FLUSHALL")


def load(address: tuple[str, int], number: int, until: float, findings: list, counts: Counter, fuzzers: list[Fuzzer]):
    """Every answer is right, or that of a forged job, or an error, in time."""
    choose = random.Random(number)
    while time.monotonic() < until:
        sent = [float(choose.randrange(1 << 20)) for _ in range(choose.choice([1, 4, 500]))]
        began = time.monotonic()
        try:
            status, got = ask(address, choose.choice(MODELS), sent)
        except (OSError, http.client.HTTPException, AssertionError) as error:
            findings.append(f"no answer: {error!r}")
            continue
        counts[f"status {status}"] += 1
        if status == 200 and got != sent and is_forged(got, fuzzers):
            counts["answers to forged jobs"] += 1
        elif status == 200 and got != sent:
            findings.append(f"a wrong answer: {got[:5]} to {sent[:5]}")
        # The deadline of the requests is five seconds.
        if time.monotonic() - began > 7:
            findings.append(f"{status} after {time.monotonic() - began:.1f} s")
        # 400: a changed announcement may ask for other inputs.
        if status not in (200, 400, 404, 500, 503, 504):
            findings.append(f"status {status}")
        if status != 200:
            time.sleep(0.02)


def is_forged(got: list, fuzzers: list[Fuzzer]) -> bool:
    """Whether an echo returned the tensor of a job that a fuzzer wrote."""
    try:
        tensor = struct.pack(f"<{len(got)}f", *got)
    except (struct.error, OverflowError, TypeError):
        return False
    return any(tensor in job for fuzzer in fuzzers for job in list(fuzzer.forged))


def main():
    settings = arguments(__doc__.splitlines()[0])
    findings, counts = [], Counter()
    with tempfile.TemporaryDirectory() as name, api_server(Path(name)) as config, fleet(Path(name)) as (port, programs):
        command = [PROGRAMS / "batchfleet-controller", "--redis-url", f"redis://127.0.0.1:{port}/0",
                   "--admin-listen", "127.0.0.1:0", "--namespace", "ml"]
        controller = Program("controller", command, Path(name) / "controller.log", {"KUBECONFIG": str(config)})
        try:
            controller.address("admin")
            judge(settings, port, [*programs[1:], controller], findings, counts)
        finally:
            controller.process.kill()
            controller.process.wait()
    print(", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))
    print("\n".join(map(str, findings[:20])) or "1 passed, no finding")
    raise SystemExit(bool(findings))


def judge(settings, port: int, programs: list[Program], findings: list, counts: Counter):
    gateway = programs[0]
    address = gateway.address("http")
    until = time.monotonic() + settings.seconds
    fuzzers = [Fuzzer(f"{settings.seed}-{number}", port, counts) for number in range(3)]
    threads = [threading.Thread(target=fuzzer.run, args=(until, findings)) for fuzzer in fuzzers]
    threads += [threading.Thread(target=load, args=(address, number, until, findings, counts, fuzzers)) for number in range(CLIENTS)]
    memory = {program.name: [program.rss()] for program in programs}
    for thread in threads:
        thread.start()
    for _ in range(6):
        time.sleep(settings.seconds / 6)
        for program in programs:
            memory[program.name].append(program.rss())
    for thread in threads:
        thread.join()
    redis = Redis(port)
    redis.call("FLUSHALL")
    began = time.monotonic()
    try:
        for model in MODELS:
            eventually(lambda: ask(address, model, [1.0])[0] == 200, f"{model} answers again", RECOVERY)
        print(f"served again {time.monotonic() - began:.1f} s after Redis was emptied")
        eventually(lambda: gateway.metrics()["batchfleet_gateway_in_flight"] == 0, "no request is in flight", 15)
        metrics = gateway.metrics()
        books = metrics["batchfleet_gateway_accepted_total"], metrics.get("batchfleet_gateway_answered_total", 0)
        assert books[0] == books[1], f"the books do not balance: {books}"
        for program in programs:
            program.check()
    except AssertionError as error:
        findings.append(error)
        return
    time.sleep(min(10, settings.seconds))  # freed memory is returned within ten seconds
    for program in programs:
        end, warm, lines = program.rss(), memory[program.name][2], len(program.records())
        series = ", ".join(f"{rss:.0f}" for rss in memory[program.name])
        print(f"{program.name}: RSS at every sixth of the time {series} MiB; {end:.0f} afterwards; {lines} log lines")
        if end > warm + GROWTH_MIB:
            findings.append(f"the memory of {program.name} has grown by {end - warm:.0f} MiB since the first third")


main()
