#!/usr/bin/env python3
"""The boards, and the Grafana JSON that is made of them.

Usage: boards.py [--check]

Writes overview.json and internals.json beside this file; with --check only says whether they are
what would be written. Each panel says what it shows, in which unit, and what to do about it.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# What the reader chose. Where targets have no namespace, `.*` matches that too.
CHOSEN = 'namespace=~"$namespace",model=~"$model"'
PLACE = 'namespace=~"$namespace"'
RATE = "$__rate_interval"
# Requests that the fleet should have answered and did not take.
ROOM = "body_bytes|broker_full|broker_unready|draining|inflight|no_workers|queue_wait"


def rate(metric, more="", by="", chosen=CHOSEN):
    """Per second, summed over processes, or by some labels."""
    labels = ",".join(part for part in (chosen, more) if part)
    by = f" by ({by})" if by else ""
    return f"sum{by} (rate({metric}{{{labels}}}[{RATE}]))"


def quantile(q, metric, by="", chosen=CHOSEN):
    """A quantile over all processes together, or by some labels."""
    by = ", ".join(part for part in ("le", by) if part)
    return f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{{{chosen}}}[{RATE}])))"


def mean(metric, by=""):
    """The mean of what a histogram observed."""
    return f"{rate(metric + '_sum', by=by)} / {rate(metric + '_count', by=by)}"


def fact(metric, by="model, version"):
    """A fact of the fleet, which every gateway tells."""
    return f"max by ({by}) ({metric}{{{CHOSEN}}})"


def panel(title, unit, description, *queries, kind="timeseries", width=8, stack=False, steps=None):
    """A panel of `queries`: (expression, legend). `steps`: colours from values on."""
    steps = steps or [("green", None)]
    custom = {"fillOpacity": 25 if stack else 8, "lineWidth": 1, "showPoints": "never"}
    if unit == "percentunit":
        custom["axisSoftMax"] = 1
    if stack:
        custom["stacking"] = {"group": "A", "mode": "normal"}
    options = {
        "timeseries": {
            "legend": {"showLegend": True, "calcs": ["lastNotNull"], "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "stat": {"colorMode": "value", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}},
        "bargauge": {"orientation": "horizontal", "reduceOptions": {"calcs": ["lastNotNull"]}},
    }
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"h": {"stat": 4}.get(kind, 8), "w": width, "x": 0, "y": 0},
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "color": {"mode": "palette-classic" if kind == "timeseries" else "thresholds"},
                "thresholds": {
                    "mode": "absolute",
                    "steps": [{"color": color, "value": value} for color, value in steps],
                },
                **({"custom": custom, "min": 0} if kind == "timeseries" else {}),
            },
            "overrides": [],
        },
        "options": options[kind],
        "targets": [
            {
                "refId": "ABCDEFGH"[n],
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "range": kind != "bargauge",
                "instant": kind == "bargauge",
            }
            for n, (expression, legend) in enumerate(queries)
        ],
    }


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [],
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": 0}}


KEPT = rate("batchfleet_gateway_answered_total", 'outcome!="cancelled"')
REFUSED = rate("batchfleet_gateway_refused_total", f'reason=~"{ROOM}"')
OWED = f"({KEPT} + {REFUSED})"
ANSWERED = rate("batchfleet_gateway_answered_total", 'outcome="ok"')
BUSY = rate("batchfleet_worker_batch_seconds_sum")
LIVE = f"sum ({fact('batchfleet_gateway_workers')})"
ROWS = rate("batchfleet_worker_batch_size_sum")
PADDED = rate("batchfleet_worker_padded_rows_total")

OVERVIEW = [
    row("Is it healthy?"),
    panel(
        "Answered in time", "percentunit",
        "Of the requests that were the fleet's to answer, the share answered with outputs within "
        "the latency target. Refused, late and failed requests count against it.",
        (f"{rate('batchfleet_gateway_within_slo_total')} / {OWED}", "in time"),
        kind="stat", width=4, steps=[("red", None), ("orange", 0.95), ("green", 0.99)],
    ),
    panel(
        "Requests", "reqps", "Offered to all gateways, refused or not.",
        (rate("batchfleet_gateway_offered_total"), "offered"), kind="stat", width=4,
    ),
    panel(
        "p99", "s",
        "99 % of the accepted requests ended within this time, from the first byte read.",
        (quantile(0.99, "batchfleet_gateway_request_seconds"), "p99"), kind="stat", width=4,
    ),
    panel(
        "Workers", "short", "Live workers, as gateways see them. Red: none.",
        (LIVE, "live"), kind="stat", width=4, steps=[("red", None), ("green", 1)],
    ),
    panel(
        "Time to an answer", "s",
        "What a request that came now would wait, as admission predicts it, for the model that is "
        "worst off.",
        (f"max ({fact('batchfleet_backlog_seconds')})", "backlog"), kind="stat", width=4,
    ),
    panel(
        "Misrouted", "short",
        "Answers that were computed from another request's input, and not delivered. Must be 0: "
        "see the runbook.",
        (f"sum (batchfleet_gateway_misrouted_total{{{PLACE}}})", "misrouted"),
        kind="stat", width=4, steps=[("green", None), ("red", 1)],
    ),
    row("Is the target held?"),
    panel(
        "Latency", "s",
        "Of accepted requests, over all gateways, and the target. Buckets are shared by all "
        "processes, so these are true quantiles of the whole fleet.",
        (quantile(0.99, "batchfleet_gateway_request_seconds"), "p99"),
        (quantile(0.95, "batchfleet_gateway_request_seconds"), "p95"),
        (quantile(0.5, "batchfleet_gateway_request_seconds"), "p50"),
        (f"min ({fact('batchfleet_slo_seconds')})", "target"),
    ),
    panel(
        "Answered in time", "percentunit",
        "As above, over time. What is missing to 100 % is in the panel to the right.",
        (f"{rate('batchfleet_gateway_within_slo_total')} / {OWED}", "in time"),
    ),
    panel(
        "What became of requests", "reqps",
        "Ends of accepted requests, and refusals by reason. `queue_wait`: the fleet cannot make the "
        "deadline. `no_workers`: nobody serves the model.",
        (rate("batchfleet_gateway_answered_total", by="outcome"), "{{outcome}}"),
        (rate("batchfleet_gateway_refused_total", by="reason"), "refused: {{reason}}"),
        stack=True,
    ),
    row("What limits it?"),
    panel(
        "Queue", "short",
        "Jobs that wait for a worker, and jobs that workers hold. Waiting that grows while workers "
        "are busy: too few workers. Waiting that grows while they idle: look at Internals.",
        (f"sum ({fact('batchfleet_queue_depth')})", "waiting"),
        (f"sum ({fact('batchfleet_queue_in_flight')})", "with workers"),
        width=6, stack=True,
    ),
    panel(
        "Waiting", "s",
        "The age of the oldest job that no worker has, and what admission predicts for the next.",
        (f"max ({fact('batchfleet_queue_oldest_age_seconds')})", "oldest"),
        (f"max ({fact('batchfleet_backlog_seconds')})", "predicted"), width=6,
    ),
    panel(
        "Load against capacity", "short",
        "Rows per second that arrive, and that all living workers can do within the target. Load "
        "above capacity is late or refused.",
        (f"sum ({fact('batchfleet_load_rows_per_second')})", "load, rows/s"),
        (f"sum ({fact('batchfleet_capacity_rows_per_second')})", "capacity, rows/s"), width=6,
    ),
    panel(
        "Workers", "short",
        "Living workers, and how many the load of now wants, each busy for 88 %.",
        (LIVE, "live"), (f"sum ({fact('batchfleet_wanted_workers')})", "wanted"), width=6,
    ),
    panel(
        "Batches", "short",
        "Rows of a batch on average, and N: the most that run together. Batches below N mean that "
        "nobody else was waiting.",
        (mean("batchfleet_worker_batch_size"), "rows of a batch"),
        (f"max (batchfleet_worker_batch_limit{{{CHOSEN}}})", "N, largest"),
        (f"min (batchfleet_worker_batch_limit{{{CHOSEN}}})", "N, smallest"), width=6,
    ),
    panel(
        "Compute", "percentunit",
        "The share of their time that workers run batches: 100 % is all they have.",
        (BUSY.replace("sum", "avg", 1), "busy"), width=6,
    ),
    panel(
        "How slow batches are", "short",
        "How many times as long as at start batches take now: above 1.5 something slows the "
        "device down, or the model got other inputs.",
        (f"max by (instance) (batchfleet_worker_slowdown_ratio{{{CHOSEN}}})", "{{instance}}"),
        width=6,
    ),
    panel(
        "Where the time goes", "s",
        "The mean request, in parts: waiting in the queue, waiting for its batch, the run of the "
        "model. What is missing to the whole is HTTP, Redis and the way.",
        (mean("batchfleet_worker_queue_wait_seconds"), "queue"),
        (mean("batchfleet_worker_batch_wait_seconds"), "batch"),
        (mean("batchfleet_worker_batch_seconds"), "model"), width=6, stack=True,
    ),
    row("What does it cost?"),
    panel(
        "Rows per busy second", "short",
        "What a worker computes while it computes. Larger batches raise it.",
        (f"{ROWS} / {BUSY}", "rows per busy second"),
    ),
    panel(
        "Worker seconds for 1,000 requests", "s",
        "What 1,000 answers cost in time of workers, idle ones included: times the price of a "
        "worker's second, the bill.",
        (f"1000 * {LIVE} / {ANSWERED}", "worker seconds"),
    ),
    panel(
        "Padding", "percentunit",
        "The share of the rows run that were padding, to reach a size that the engine runs.",
        (f"{PADDED} / ({ROWS} + {PADDED})", "padding"),
    ),
]

INTERNALS = [
    row("Gateways"),
    panel(
        "Requests by gateway", "reqps",
        "Uneven is fine: batches form across gateways. One at 0 gets no traffic.",
        (rate("batchfleet_gateway_offered_total", by="instance"), "{{instance}}"), width=6,
    ),
    panel(
        "In flight by gateway", "short", "Accepted and not ended; bounded by --max-in-flight.",
        (f"sum by (instance) (batchfleet_gateway_in_flight{{{CHOSEN}}})", "{{instance}}"), width=6,
    ),
    panel(
        "Bodies held", "bytes",
        "Bytes of requests and answers in memory; bounded by --max-body-bytes-in-flight.",
        (f"batchfleet_gateway_body_bytes{{{PLACE}}}", "{{instance}}"), width=6,
    ),
    panel(
        "What was lost and mended", "short",
        "Per second: requests sent again because the queue lost them, interruptions of the queue, "
        "answers that found nobody waiting (duplicates, or given up), replies without a gateway.",
        (rate("batchfleet_gateway_resubmissions_total", chosen=PLACE), "sent again"),
        (rate("batchfleet_gateway_interruptions_total", chosen=PLACE), "interruptions"),
        (rate("batchfleet_gateway_unclaimed_replies_total", chosen=PLACE), "answers to nobody"),
        (rate("batchfleet_worker_undeliverable_replies_total"), "replies without a gateway"), width=6,
    ),
    row("Hop by hop"),
    panel(
        "p99 of each hop", "s",
        "Where a slow request spends its time. Queue: too few workers. Batch: batches too long, or "
        "--linger. Model: the device. Redis: the broker.",
        (quantile(0.99, "batchfleet_gateway_request_seconds"), "whole"),
        (quantile(0.99, "batchfleet_worker_queue_wait_seconds"), "queue"),
        (quantile(0.99, "batchfleet_worker_batch_wait_seconds"), "batch"),
        (quantile(0.99, "batchfleet_worker_batch_seconds"), "model"),
        (quantile(0.99, "batchfleet_worker_broker_seconds"), "Redis, answers"), width=12,
    ),
    panel(
        "The mean request, under Triton's names", "µs",
        "From nv_inference_*: the same as Triton's dashboards show.",
        *(
            (f"{rate(f'nv_inference_{part}_duration_us')} / {rate('nv_inference_request_success')}", part)
            for part in ("request", "queue", "compute_input", "compute_infer", "compute_output")
        ),
        width=12,
    ),
    row("Workers"),
    panel(
        "Rows by worker", "short", "Rows per second that each worker runs.",
        (rate("batchfleet_worker_batch_size_sum", by="instance"), "{{instance}}"), width=6,
    ),
    panel(
        "Busy by worker", "percentunit", "The share of its time that each worker runs batches.",
        (rate("batchfleet_worker_batch_seconds_sum", by="instance"), "{{instance}}"), width=6,
    ),
    panel(
        "N by worker", "short",
        "The most rows each worker runs together, and the interval N is chosen from: enough to keep "
        "up with the load, and the most that keep the target and bring more than latency.",
        (f"max by (instance) (batchfleet_worker_batch_limit{{{CHOSEN}}})", "{{instance}}"),
        (f"min (batchfleet_worker_batch_limit_least{{{CHOSEN}}})", "least"),
        (f"max (batchfleet_worker_batch_limit_most{{{CHOSEN}}})", "most"), width=6,
    ),
    panel(
        "What decides about N", "short",
        "Workers by what bounds their N. `slo`: the target. `rate_matched`: the load is small. "
        "`max_batch`: the model's limit. `memory`: larger batches ran out of it.",
        (f"sum by (bound) (batchfleet_worker_batch_limit_bound{{{CHOSEN}}})", "{{bound}}"), width=6, stack=True,
    ),
    panel(
        "Why batches left", "short",
        "Batches per second. `full`: N rows. `drained`: nobody else waited. `linger`: they had waited "
        "long enough. `suspect`: a request that was there when a worker died, alone.",
        (rate("batchfleet_worker_released_total", by="reason"), "{{reason}}"), width=6, stack=True,
    ),
    panel(
        "Batch size", "short", "Rows: the median, the p95 and the mean of batches that ran.",
        (quantile(0.5, "batchfleet_worker_batch_size"), "p50"),
        (quantile(0.95, "batchfleet_worker_batch_size"), "p95"),
        (mean("batchfleet_worker_batch_size"), "mean"), width=6,
    ),
    panel(
        "L(b)", "s",
        "What a batch of so many rows takes, as the slowest worker believes it now.",
        (f"max by (rows) (batchfleet_worker_expected_batch_seconds{{{CHOSEN}}})", "{{rows}}"),
        kind="bargauge", width=6,
    ),
    panel(
        "Capacity by worker", "short",
        "Rows per second that each can do within the target; 0 while it drains.",
        (f"sum by (instance) (batchfleet_worker_capacity_rows_per_second{{{CHOSEN}}})", "{{instance}}"), width=6,
    ),
    panel(
        "What became of jobs", "short",
        "Jobs per second by outcome. `handed_back`: a worker left. `poison`: several workers died of "
        "it. `orphaned`: its gateway was gone.",
        (rate("batchfleet_worker_jobs_total", by="outcome"), "{{outcome}}"), width=6, stack=True,
    ),
    panel(
        "What went wrong", "short",
        "Per second: jobs taken over from dead workers, batches halved, runs that failed.",
        (rate("batchfleet_worker_reclaimed_total"), "taken over"),
        (rate("batchfleet_worker_bisections_total"), "halved"),
        (rate("batchfleet_worker_engine_errors_total", by="class"), "failed: {{class}}"), width=6,
    ),
    panel(
        "Where models run", "short", "Workers by model and execution provider.",
        (f"count by (model, version, provider) (batchfleet_worker_execution_provider{{{CHOSEN}}})",
         "{{model}} {{version}}: {{provider}}"), kind="bargauge", width=6,
    ),
    panel(
        "Versions", "short",
        "Processes by version of Batchfleet, and workers whose model differs from what gateways go by.",
        (f"count by (version) (batchfleet_build_info{{{PLACE}}})", "Batchfleet {{version}}"),
        (f"sum ({fact('batchfleet_gateway_mismatched_workers')})", "workers with another model"),
        kind="bargauge", width=6,
    ),
    row("Redis"),
    panel(
        "Round trips", "s",
        "p99 and median of a small question (gateways), and of sending a batch's answers (workers).",
        (quantile(0.99, "batchfleet_gateway_broker_seconds", chosen=PLACE), "question, p99"),
        (quantile(0.5, "batchfleet_gateway_broker_seconds", chosen=PLACE), "question, p50"),
        (quantile(0.99, "batchfleet_worker_broker_seconds"), "answers, p99"),
        (quantile(0.5, "batchfleet_worker_broker_seconds"), "answers, p50"),
    ),
    panel(
        "Calls that failed", "short", "Per second, by why. Callers do not notice short outages.",
        (rate("batchfleet_gateway_broker_errors_total", by="code", chosen=PLACE), "gateways: {{code}}"),
        (rate("batchfleet_worker_broker_errors_total", by="code"), "workers: {{code}}"),
    ),
    panel(
        "Memory", "percentunit",
        "How full Redis is, of its maxmemory. From 80 % on gateways refuse. 0 where it has no limit.",
        (f"max (batchfleet_broker_memory_ratio{{{PLACE}}})", "used"),
    ),
    row("Controller"),
    panel(
        "Wanted workers", "short", "What the controller decided, by fleet: the autoscaler's floor.",
        (f"max by (fleet) (batchfleet_controller_wanted_workers{{{PLACE}}})", "{{fleet}}"), width=6,
    ),
    panel(
        "What decides", "short",
        "The reason for the number of workers, by fleet. `max`: more are needed than there may be. "
        "`stale`: nothing was heard from gateways.",
        (f"max by (fleet, reason) (batchfleet_controller_reason{{{PLACE}}}) > 0", "{{fleet}}: {{reason}}"), width=6,
    ),
    panel(
        "Load and capacity", "short",
        "Rows per second offered, and that the workers can do; both by fleet.",
        (f"max by (fleet) (batchfleet_controller_offered_rows_per_second{{{PLACE}}})", "{{fleet}}: offered"),
        (f"max by (fleet) (batchfleet_controller_capacity_rows_per_second{{{PLACE}}})", "{{fleet}}: capacity"), width=6,
    ),
    panel(
        "Trust in what was measured", "percentunit",
        "Kappa: the share of the measured capacity that the fleet has shown to have.",
        (f"min by (fleet) (batchfleet_controller_trust_ratio{{{PLACE}}})", "{{fleet}}"), width=6,
    ),
    panel(
        "Turns", "short", "Turns per second, by how they ended.",
        (rate("batchfleet_controller_turns_total", by="outcome", chosen=PLACE), "{{outcome}}"), width=6,
    ),
    panel(
        "Who leads", "short", "1 for the process that writes. All at 0: nobody does.",
        (f"batchfleet_controller_leading{{{PLACE}}}", "{{instance}}"), width=6,
    ),
    panel(
        "Conditions", "short", "What holds of each fleet now, as `kubectl describe modelfleet` says.",
        (f"max by (fleet, condition) (batchfleet_controller_condition{{{PLACE}}})", "{{fleet}}: {{condition}}"), width=6,
    ),
    panel(
        "Latency as the controller sees it", "s", "The p99 of late, by fleet; 0 while unknown.",
        (f"max by (fleet) (batchfleet_controller_p99_seconds{{{PLACE}}})", "{{fleet}}"), width=6,
    ),
    row("Processes"),
    panel(
        "CPU", "percentunit", "Cores that each process uses.",
        (f"rate(process_cpu_seconds_total{{{PLACE}}}[{RATE}])", "{{instance}}"),
    ),
    panel(
        "Memory", "bytes", "Resident memory of each process.",
        (f"process_resident_memory_bytes{{{PLACE}}}", "{{instance}}"),
    ),
    panel(
        "Open files", "short", "Of each process: about one per connection.",
        (f"process_open_fds{{{PLACE}}}", "{{instance}}"),
    ),
]


def variables():
    """The data source first: the others ask it."""
    def choice(name, label, query):
        return {
            "name": name, "label": label, "type": "query", "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }

    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        choice("namespace", "Namespace", "label_values(batchfleet_build_info, namespace)"),
        choice("model", "Model", f"label_values(batchfleet_queue_depth{{{PLACE}}}, model)"),
        {
            "name": "runbooks", "label": "Runbooks", "type": "constant", "hide": 2,
            "description": "Where docs/runbooks.md of Batchfleet is served",
            "query": "/docs/runbooks.md",
        },
    ]


def board(uid, title, description, other, panels):
    """A board as Grafana reads it: panels from left to right, row by row."""
    x = y = height = 0
    for number, each in enumerate(panels, 1):
        place = each["gridPos"]
        if x + place["w"] > 24:
            x, y, height = 0, y + height, 0
        place["x"], place["y"] = x, y
        x, height = x + place["w"], max(height, place["h"])
        each["id"] = number
    other_uid, other_title = other
    link = {"type": "link", "icon": "dashboard", "includeVars": True, "keepTime": True,
            "asDropdown": False, "targetBlank": False, "tooltip": "", "tags": []}
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["batchfleet"],
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 41,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "links": [
            {**link, "title": other_title, "url": f"/d/{other_uid}"},
            {**link, "title": "Runbooks", "icon": "doc", "url": "${runbooks}", "includeVars": False,
             "keepTime": False, "targetBlank": True},
        ],
        "templating": {"list": variables()},
        "panels": panels,
    }


def boards():
    """The files, and what belongs in them."""
    names = [("batchfleet-overview", "Batchfleet: Overview"),
             ("batchfleet-internals", "Batchfleet: Internals")]
    made = {
        "overview.json": board(
            *names[0], "Is it healthy, is the target held, what limits it, what does it cost?",
            names[1], OVERVIEW),
        "internals.json": board(
            *names[1], "Each hop, each worker, Redis, and what the controller decides.",
            names[0], INTERNALS),
    }
    return {name: json.dumps(made[name], indent=1, ensure_ascii=False) + "\n" for name in made}


def main():
    wrong = []
    for name, text in boards().items():
        file = HERE / name
        if "--check" not in sys.argv:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            wrong.append(name)
    if wrong:
        sys.exit(f"not what boards.py says: {', '.join(wrong)}; run dashboards/boards.py")


if __name__ == "__main__":
    main()
