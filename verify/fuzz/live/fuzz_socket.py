#!/usr/bin/env python3
"""Sends malformed, pipelined, slow and truncated HTTP to the ports of a real gateway.

Usage: fuzz_socket.py [--seconds 60] [--seed N]

Every answer must be valid HTTP with a body that its head describes, errors must be JSON with a code, and
right requests must be answered rightly meanwhile. Afterwards no request may be in flight, and the memory
must be that of the first third of the time.
"""

import http.client
import json
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from fleet import MODELS, arguments, ask, eventually, fleet, http_get, reset

THREADS = 24
# Of the memory at the end over that after the first third.
GROWTH_MIB = 48
PATHS = ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/a", "/v2/models/a/ready", "/v2/models/a/infer",
         "/v2/models/b/versions/1/infer", "/openapi.json", "/metrics", "/livez", "/nowhere", "/v2/models/%00/infer"]
WORDS = [b"\r\n", b"\n", b"\r\n\r\n", b":", b" ", b"\0", b"\xff", b"HTTP/1.1", b"HTTP/9.9", b"GET", b"POST", b"%", b"//",
         b"Content-Length: 5\r\n", b"Content-Length: 18446744073709551616\r\n", b"Content-Length: -1\r\n",
         b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity, chunked\r\n", b"Expect: 100-continue\r\n",
         b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Content-Encoding: gzip\r\n",
         b"Inference-Header-Content-Length: 9\r\n", b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
         b"x-request-timeout-ms: 99999999999\r\n", b"x-priority: critical\r\n", b"[" * 500, b"1e999", b"\"data\":"]


class Fuzzer:
    """One thread's share of the requests."""

    def __init__(self, seed: str, ports: list[tuple[str, int]], findings: list, counts: Counter):
        self.random, self.seed = random.Random(seed), seed
        self.ports, self.findings, self.counts = ports, findings, counts
        self.number = 0

    def run(self, until: float):
        while time.monotonic() < until and not self.findings:
            self.number += 1
            try:
                self.connection()
            except AssertionError as error:
                self.findings.append(f"seed {self.seed}, connection {self.number}: {error}")
            except OSError:
                # The gateway may close a connection at any time.
                self.counts["closed early"] += 1
            except Exception as error:
                self.findings.append(f"the fuzzer itself failed: {error!r}")

    def request(self) -> bytes:
        """A request that is right."""
        choose = self.random
        if choose.random() < 0.4:
            return f"{choose.choice(['GET', 'HEAD', 'OPTIONS'])} {choose.choice(PATHS)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        numbers = [choose.randrange(100) for _ in range(choose.choice([1, 8, 300]))]
        tensor = {"name": "input", "shape": [1, len(numbers)], "datatype": "FP32", "data": numbers}
        body = json.dumps({"inputs": [tensor]}).encode()
        head = f"POST {choose.choice(PATHS)} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        if choose.random() < 0.5:
            return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        chunks = b""
        while body:
            size = choose.randint(1, 200)
            chunks, body = chunks + b"%x\r\n%s\r\n" % (len(body[:size]), body[:size]), body[size:]
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"

    def mutated(self, data: bytes) -> bytes:
        choose, data = self.random, bytearray(data)
        for _ in range(choose.choice([0, 1, 1, 2, 5, 20])):
            at = choose.randrange(len(data) + 1)
            match choose.randrange(6):
                case 0:
                    data[at:at] = choose.choice(WORDS)
                case 1:
                    data[at : at + choose.randint(1, 30)] = b""
                case 2:
                    data[at : at + 1] = bytes([choose.randrange(256)])
                case 3:
                    data[at:at] = choose.randbytes(choose.choice([1, 10, 1000]))
                case 4:
                    data[at:at] = data[at : at + choose.randint(1, 100)] * choose.choice([1, 3, 50])
                case 5:
                    data[at:at] = b"X-%d: %s\r\n" % (at, b"y" * choose.choice([1, 5000, 70000]))
        return bytes(data)

    def bytes_to_send(self) -> bytes:
        choose = self.random
        match choose.randrange(10):
            case 0:
                self.counts["random bytes"] += 1
                return choose.randbytes(choose.choice([1, 50, 5000, 1_000_000]))
            case 1 | 2 | 3:
                self.counts["pipelined"] += 1
                return b"".join(self.mutated(self.request()) for _ in range(choose.choice([2, 10, 100])))
            case 4 | 5:
                self.counts["truncated"] += 1
                whole = self.mutated(self.request())
                return whole[: choose.randrange(len(whole) + 1)]
            case _:
                self.counts["mutated"] += 1
                return self.mutated(self.request())

    def connection(self):
        choose = self.random
        with socket.create_connection(choose.choice(self.ports), 10) as connection:
            # An idle request is ended by the gateway after five seconds.
            connection.settimeout(choose.choice([0.05, 0.3, 0.3, 8]))
            data = self.bytes_to_send()
            slow = choose.random() < 0.2
            self.counts["slow"] += slow
            piece = max(1, len(data) // 20) if slow else choose.choice([1, 7, 1000, 1 << 20])
            for at in range(0, min(len(data), piece * 2000), piece):
                connection.sendall(data[at : at + piece])
                if slow:
                    time.sleep(choose.random() * 0.05)
            match choose.randrange(8):
                case 0:
                    self.counts["reset"] += 1
                    reset(connection)
                    return
                case 1:
                    self.counts["unread"] += 1
                    return
                case 2 | 3 | 4:
                    connection.shutdown(socket.SHUT_WR)
            self.judge(connection, data)

    def judge(self, connection: socket.socket, sent: bytes):
        """Reads all answers. They must be valid as far as they have come."""
        received = b""
        try:
            while part := connection.recv(1 << 16):
                received += part
        except TimeoutError:
            pass
        except ConnectionResetError:
            # An RST may have cut the last answer.
            return
        while received:
            head, ended, rest = received.partition(b"\r\n\r\n")
            if not ended:
                return
            lines = head.decode("latin-1").split("\r\n")
            words = lines[0].split(" ", 2)
            assert len(words) == 3 and words[0] in ("HTTP/1.1", "HTTP/1.0"), f"{head!r} to {sent[:300]!r}"
            status = int(words[1])
            self.counts[f"status {status}"] += 1
            assert status in (100, 101) or 200 <= status < 500 or status in (501, 503, 504, 505), \
                f"{head!r} to {sent[:300]!r}"
            if status == 100:
                received = rest
                continue
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            if "content-length" not in headers:
                return  # chunked, or an answer to HEAD
            size = int(headers["content-length"])
            body, received = rest[:size], rest[size:]
            if b"HEAD" in sent or len(body) < size:
                return  # an answer to HEAD has no body
            if status >= 400 and body:
                assert "x-error-code" in headers and isinstance(json.loads(body)["error"], str), f"{head!r} {body!r}"


def probe(address: tuple[str, int], until: float, findings: list, counts: Counter):
    """Right requests are answered rightly, in time."""
    number = 0
    while time.monotonic() < until and not findings:
        number += 1
        began = time.monotonic()
        try:
            status, output = ask(address, MODELS[number % 2], [float(number), 2.0])
        except (OSError, http.client.HTTPException) as error:
            # At the limit of its connections the gateway closes one that waits.
            counts["right requests cut off"] += 1
            if counts["right requests cut off"] > 0.05 * number + 20:
                findings.append(f"right requests are cut off: {error!r}")
            continue
        took = time.monotonic() - began
        counts["right requests"] += 1
        if status == 200 and output != [float(number), 2.0]:
            findings.append(f"a wrong answer: {output}")
        if status not in (200, 503, 504) or took > 8:
            findings.append(f"a right request got {status} after {took:.1f} s")


def main():
    settings = arguments(__doc__.splitlines()[0])
    findings, counts = [], Counter()
    with tempfile.TemporaryDirectory() as folder, fleet(Path(folder)) as (_, programs):
        gateway = programs[1]
        ports = [gateway.address("http")] * 4 + [gateway.address("admin")]
        until = time.monotonic() + settings.seconds
        threads = [threading.Thread(target=probe, args=(ports[0], until, findings, counts))]
        for number in range(THREADS):
            fuzzer = Fuzzer(f"{settings.seed}-{number}", ports, findings, counts)
            threads.append(threading.Thread(target=fuzzer.run, args=(until,)))
        start = gateway.rss()
        for thread in threads:
            thread.start()
        time.sleep(settings.seconds / 3)
        warm = gateway.rss()
        for thread in threads:
            thread.join()
        for program in programs:
            program.check()
        if not findings:
            eventually(lambda: gateway.metrics()["batchfleet_gateway_in_flight"] == 0, "no request is in flight", 15)
            metrics = gateway.metrics()
            answered = metrics.get("batchfleet_gateway_answered_total", 0)
            assert metrics["batchfleet_gateway_accepted_total"] == answered, "the books do not balance"
            assert metrics.get("batchfleet_gateway_misrouted_total", 0) == 0, "an answer of another request"
            assert http_get(ports[0], "/v2/health/ready")[0] == 200
            time.sleep(10)  # freed memory is returned within ten seconds
        end = gateway.rss()
        print(f"RSS of the gateway: {start:.0f} MiB, {warm:.0f} after a third, {end:.0f} at the end")
        if end > warm + GROWTH_MIB:
            findings.append(f"the memory has grown by {end - warm:.0f} MiB")
    print(", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))
    print("\n".join(findings) or "1 passed, no finding")
    raise SystemExit(bool(findings))


main()
