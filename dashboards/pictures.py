#!/usr/bin/env python3
"""Runs stories on a real fleet and draws the boards during each story, into docs/pictures.

Usage: pictures.py [STORY]...     quiet, worker-kill, overload, slow-model; default: all of them

The data are a real Prometheus' results of the boards' queries, drawn by Grafana's chart components in
headless Chromium. Needs chromium and pngquant in addition to the programs that check.py needs.
"""

import http.server
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from check import filled, files
from live import Live

HERE = Path(__file__).parent
PAGES = HERE.parent / ".cache" / "render"
PICTURES = HERE.parent / "docs" / "pictures"
PAGE = """<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="board.css">
<div id="root"></div>
<script>window.board = {}</script><script src="board.js"></script>"""
SECONDS = 90
TROUBLE = (30, 60)  # start and end, seconds
CELL, WIDTH = 34, 1600  # as in board.jsx
CALM = ["--rate", "100", "--users", "400"]


def quiet(live):
    time.sleep(SECONDS)


def worker_kill(live):
    """One of two workers is killed; a new worker starts 30 s later."""
    time.sleep(TROUBLE[0])
    live.kill("worker-1")
    time.sleep(TROUBLE[1] - TROUBLE[0])
    live.add_worker()
    live.write_targets()
    time.sleep(SECONDS - TROUBLE[1])


def overload(live):
    """Six times the load for 30 s."""
    time.sleep(TROUBLE[0])
    burst = live.load(TROUBLE[1] - TROUBLE[0], "--rate", "500", "--users", "400")
    burst.wait()
    time.sleep(SECONDS - TROUBLE[1])


def slow_model(live):
    """Workers get a fifth of the CPU time for 30 s, as on a shared device."""
    time.sleep(TROUBLE[0])
    workers = [program for name, program in live.programs.items() if name.startswith("worker")]
    began = time.monotonic()
    while time.monotonic() < began + TROUBLE[1] - TROUBLE[0]:
        for signal, seconds in (("STOP", 0.2), ("CONT", 0.05)):
            subprocess.run(["kill", f"-{signal}", *(str(worker.pid) for worker in workers)], check=True)
            time.sleep(seconds)
    time.sleep(SECONDS - TROUBLE[1])


STORIES = {"quiet": quiet, "worker-kill": worker_kill, "overload": overload, "slow-model": slow_model}


def with_results(live, board, since, until):
    """The board with Prometheus' results of its queries."""
    for panel in board["panels"]:
        panel["series"] = []
        for target in panel.get("targets", []):
            query = filled(target["expr"]).replace("[15s]", "[5s]")
            answer = live.ask("query_range", query=query, start=since, end=until, step=1)
            for series in answer["result"]:
                name = target["legendFormat"]
                for label, value in series["metric"].items():
                    name = name.replace("{{" + label + "}}", value)
                known = {time: None if value == "NaN" else float(value) for time, value in series["values"]}
                times = range(int(since), int(until))
                at = {int(time): value for time, value in known.items()}
                panel["series"].append({
                    "name": name, "times": [time * 1000 for time in times],
                    "values": [at.get(time) for time in times]})
    return {**board, "from": since * 1000, "to": until * 1000}


def draw(board, picture):
    """Draws a board that has results."""
    (PAGES / "index.html").write_text(PAGE.format(json.dumps(board).replace("<", "\\u003c")))
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=PAGES))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    height = 60 + CELL * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--window-size={WIDTH},{height}", "--virtual-time-budget=20000", f"--screenshot={picture}",
         f"http://127.0.0.1:{server.server_port}/"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server.shutdown()
    subprocess.run(["pngquant", "--force", "--output", picture, picture], check=True)
    print(f"{picture.name}: {picture.stat().st_size // 1024} KiB")


def bundle():
    """Bundles board.jsx and Grafana's components into one script."""
    PAGES.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "board.jsx"):
        (PAGES / name).write_text((HERE / "render" / name).read_text())
    if not (PAGES / "node_modules" / "@grafana" / "ui").exists():
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock",
                        "--legacy-peer-deps"], cwd=PAGES, check=True)
    subprocess.run(
        ["node_modules/.bin/esbuild", "board.jsx", "--bundle", "--minify", "--outfile=board.js",
         "--jsx=automatic", '--define:process.env.NODE_ENV="production"', "--loader:.svg=dataurl",
         "--loader:.woff2=dataurl", "--loader:.ttf=dataurl", "--log-level=warning"],
        cwd=PAGES, check=True)


def run(story):
    with tempfile.TemporaryDirectory() as folder:
        live = Live(Path(folder))
        try:
            load = live.load(SECONDS + 25, *CALM)
            time.sleep(12)  # rates and N have settled by then
            since = int(time.time())
            STORIES[story](live)
            until = int(time.time())
            boards = {name: with_results(live, board, since, until) for name, board in files().items()}
            load.wait()
        finally:
            live.stop()
    PICTURES.mkdir(parents=True, exist_ok=True)
    draw(boards["overview.json"], PICTURES / f"overview-{story}.png")
    if story == "quiet":
        draw(boards["internals.json"], PICTURES / "internals.png")


def main():
    bundle()
    for story in sys.argv[1:] or STORIES:
        run(story)


if __name__ == "__main__":
    main()
