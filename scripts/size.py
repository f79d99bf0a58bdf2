#!/usr/bin/env python3
"""Computes how many gateways, workers and Redises large loads need, from measured costs, and writes the
table of docs/operating/size.md. With --check, fails if the page is out of date.

Usage: size.py [--check]
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "operating" / "size.md"
BEGIN, END = "<!-- table: scripts/size.py -->", "<!-- end of table -->"

# How much of a CPU core, and of a network card in bits per second, is used at most.
CORE, CARD = 0.6, 15e9
# Cores of one gateway.
GATEWAY_CORES = 2
# Workers of a queue at each Redis.
WORKERS_PER_REDIS = 8
# Share of a core that 1,000 workers and 200 gateways cost a Redis without a request (make bench ONLY=control).
IDLE, IDLE_WORKERS, IDLE_GATEWAYS = 0.12, 1000, 200
# Connections to each Redis: of a gateway, of a worker that lives there, and of one that lives elsewhere.
OF_GATEWAY, AT_HOME, ELSEWHERE = 5, 7, 1


@dataclass
class Request:
    """What one request costs: bytes each way through Redis, and microseconds of CPU."""

    name: str
    bytes_in: int
    bytes_out: int
    gateway: float
    redis: float


# 256 B and 12 KiB: make bench ONLY=echo, with batches of 14 to 18. Images: make bench ONLY=images, with batches of
# 2 to 8. Images that pass Redis by leave a small job and a small answer there.
SMALL = Request("256 B", 256 + 500, 540, 29, 8.1)
MEDIUM = Request("12 KiB", 12288 + 500, 540, 46, 17)
PIXELS = Request("150 KiB, images of bytes", 150 << 10, 540, 118, 72)
FLOATS = Request("600 KiB, images of floats", 600 << 10, 540, 329, 222)
PIXELS_PAST = Request("150 KiB, past Redis", 600, 540, 101, 13)
FLOATS_PAST = Request("600 KiB, past Redis", 600, 540, 255, 21.7)

# Requests per second, and those of one worker.
LOADS = [
    (1_000_000, SMALL, 2_000),
    (1_000_000, SMALL, 20_000),
    (1_000_000, MEDIUM, 2_000),
    (100_000, PIXELS, 4_000),
    (100_000, PIXELS_PAST, 4_000),
    (100_000, FLOATS, 4_000),
    (100_000, FLOATS_PAST, 4_000),
]


@dataclass
class Plan:
    """The programs that a load needs."""

    gateways: int
    workers: int
    redises: int
    share: float
    gigabits: float
    connections: int

    @classmethod
    def of(cls, rate: float, request: Request, per_worker: float) -> "Plan":
        gateways = math.ceil(rate * request.gateway * 1e-6 / (GATEWAY_CORES * CORE))
        workers = math.ceil(rate / per_worker / 0.8)
        bits = 8 * max(request.bytes_in, request.bytes_out)
        redises = 1
        while True:
            here = math.ceil(workers / redises)
            idle = IDLE * max(here / IDLE_WORKERS, gateways / IDLE_GATEWAYS)
            share = rate / redises * request.redis * 1e-6 + idle
            gigabits = rate / redises * bits
            if share <= CORE and gigabits <= CARD:
                break
            redises += 1
        connections = gateways * OF_GATEWAY + here * AT_HOME + (workers - here) * ELSEWHERE
        return cls(gateways, workers, redises, share, gigabits / 1e9, connections)

    def note(self) -> str:
        here = self.workers / self.redises
        return "" if here >= WORKERS_PER_REDIS else f", **{here:.1f} at each Redis: too few**"


def table() -> str:
    lines = [
        "| load | gateways of 2 cores | workers | Redises | CPU of each Redis | network, each way | connections |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate, request, per_worker in LOADS:
        plan = Plan.of(rate, request, per_worker)
        lines.append(
            f"| {rate:,}/s of {request.name} | {plan.gateways} | {plan.workers} of {per_worker:,}/s{plan.note()} "
            f"| {plan.redises} | {plan.share:.0%} of a core | {plan.gigabits:.1f} Gbit/s | {plan.connections:,} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    arguments = parser.parse_args()
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    fresh = f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"
    if arguments.check and fresh != page:
        print(f"{PAGE} is out of date: run scripts/size.py", file=sys.stderr)
        return 1
    if not arguments.check:
        PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
