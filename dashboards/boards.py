#!/usr/bin/env python3
"""Defines the Grafana boards and generates their JSON.

Usage: boards.py [--check]

Writes overview.json and internals.json beside this file. With --check, writes nothing and fails if
either file is out of date. The description of a panel says what it shows, its unit and how to react.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# The namespace and model selected on the board. `.*` also matches targets without a namespace label.
CHOSEN = 'namespace=~"$namespace",model=~"$model"'
PLACE = 'namespace=~"$namespace"'
RATE = "$__rate_interval"
# Reasons of refusals that are the fleet's fault, not the client's: `gateway/src/refusal.rs`, sorted.
FLEET_REFUSALS = "body_bytes|broker_full|broker_unready|draining|inflight|no_workers|queue_wait"


def rate(metric, more="", by="", chosen=CHOSEN):
    """Rate per second, summed over all processes, or by the labels `by`."""
    labels = ",".join(part for part in (chosen, more) if part)
    by = f" by ({by})" if by else ""
    return f"sum{by} (rate({metric}{{{labels}}}[{RATE}]))"


def quantile(q, metric, by="", chosen=CHOSEN):
    """Quantile of a histogram over all processes, or by the labels `by`."""
    by = ", ".join(part for part in ("le", by) if part)
    return f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{{{chosen}}}[{RATE}])))"


def mean(metric, by=""):
    """Mean of a histogram's observations."""
    return f"{rate(metric + '_sum', by=by)} / {rate(metric + '_count', by=by)}"


def shared(metric, by="model, version"):
    """A metric of the whole fleet that every gateway exports: the maximum, not the sum."""
    return f"max by ({by}) ({metric}{{{CHOSEN}}})"


def panel(title, unit, description, *queries, kind="timeseries", width=8, stack=False, steps=None):
    """A panel. `queries` are pairs (expression, legend); `steps` are pairs (colour, lowest value)."""
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
REFUSED = rate("batchfleet_gateway_refused_total", f'reason=~"{FLEET_REFUSALS}"')
OWED = f"({KEPT} + {REFUSED})"
ANSWERED = rate("batchfleet_gateway_answered_total", 'outcome="ok"')
BUSY = rate("batchfleet_worker_batch_seconds_sum")
LIVE = f"sum ({shared('batchfleet_gateway_workers')})"
ROWS = rate("batchfleet_worker_batch_size_sum")
PADDED = rate("batchfleet_worker_padded_rows_total")

OVERVIEW = [
    row("Is the fleet healthy?"),
    panel(
        "Answered in time", "percentunit",
        "Share of requests that got their outputs within the latency target. Requests that the fleet "
        "refused, answered late or failed count as missed; refusals that are the client's fault and "
        "cancelled requests do not count at all.",
        (f"{rate('batchfleet_gateway_within_slo_total')} / {OWED}", "in time"),
        kind="stat", width=4, steps=[("red", None), ("orange", 0.95), ("green", 0.99)],
    ),
    panel(
        "Requests", "reqps", "Requests per second at all gateways, refused ones included.",
        (rate("batchfleet_gateway_offered_total"), "offered"), kind="stat", width=4,
    ),
    panel(
        "p99", "s",
        "99 % of the accepted requests ended within this time, measured from the first byte read.",
        (quantile(0.99, "batchfleet_gateway_request_seconds"), "p99"), kind="stat", width=4,
    ),
    panel(
        "Workers", "short", "Live workers, as counted by gateways. Red: none.",
        (LIVE, "live"), kind="stat", width=4, steps=[("red", None), ("green", 1)],
    ),
    panel(
        "Predicted wait", "s",
        "Wait that admission control predicts for a new request. With several models: the longest.",
        (f"max ({shared('batchfleet_backlog_seconds')})", "backlog"), kind="stat", width=4,
    ),
    panel(
        "Misrouted", "short",
        "Replies that were computed from another request's input and therefore not delivered. Must "
        "be 0: see the runbook.",
        (f"sum (batchfleet_gateway_misrouted_total{{{PLACE}}})", "misrouted"),
        kind="stat", width=4, steps=[("green", None), ("red", 1)],
    ),
    row("Is the latency target met?"),
    panel(
        "Latency", "s",
        "Latency of accepted requests at all gateways, and the latency target. All processes use the "
        "same buckets, so these are quantiles of the whole fleet.",
        (quantile(0.99, "batchfleet_gateway_request_seconds"), "p99"),
        (quantile(0.95, "batchfleet_gateway_request_seconds"), "p95"),
        (quantile(0.5, "batchfleet_gateway_request_seconds"), "p50"),
        # A model without a living worker has the target 0, because it is unknown.
        (f"min ({shared('batchfleet_slo_seconds')} > 0)", "target"),
    ),
    panel(
        "Answered in time", "percentunit",
        "The same share over time. The panel to the right shows what happened to the other requests.",
        (f"{rate('batchfleet_gateway_within_slo_total')} / {OWED}", "in time"),
    ),
    panel(
        "Request outcomes", "reqps",
        "Accepted requests by outcome, and refused requests by reason. `queue_wait`: the predicted "
        "wait exceeds the deadline. `no_workers`: no worker serves the model.",
        (rate("batchfleet_gateway_answered_total", by="outcome"), "{{outcome}}"),
        (rate("batchfleet_gateway_refused_total", by="reason"), "refused: {{reason}}"),
        stack=True,
    ),
    row("What limits the fleet?"),
    panel(
        "Queue", "short",
        "Jobs in the queue, and jobs held by workers. A growing queue with busy workers: too few "
        "workers. A growing queue with idle workers: see the board Internals.",
        (f"sum ({shared('batchfleet_queue_depth')})", "waiting"),
        (f"sum ({shared('batchfleet_queue_in_flight')})", "with workers"),
        width=6, stack=True,
    ),
    panel(
        "Queue wait", "s",
        "Age of the oldest job in the queue, and the wait that admission control predicts for the "
        "next request.",
        (f"max ({shared('batchfleet_queue_oldest_age_seconds')})", "oldest"),
        (f"max ({shared('batchfleet_backlog_seconds')})", "predicted"), width=6,
    ),
    panel(
        "Load and capacity", "short",
        "Arriving rows per second, and rows per second that all live workers can run within the "
        "latency target. Requests beyond the capacity are late or refused.",
        (f"sum ({shared('batchfleet_load_rows_per_second')})", "load, rows/s"),
        (f"sum ({shared('batchfleet_capacity_rows_per_second')})", "capacity, rows/s"), width=6,
    ),
    panel(
        "Workers", "short",
        "Live workers, and the number needed to run the current load at 88 % utilization.",
        (LIVE, "live"), (f"sum ({shared('batchfleet_wanted_workers')})", "wanted"), width=6,
    ),
    panel(
        "Batches", "short",
        "Mean rows per batch, and N, the maximum rows per batch. Batches smaller than N mean that no "
        "more jobs were waiting.",
        (mean("batchfleet_worker_batch_size"), "rows per batch"),
        (f"max (batchfleet_worker_batch_limit{{{CHOSEN}}})", "N, largest"),
        (f"min (batchfleet_worker_batch_limit{{{CHOSEN}}})", "N, smallest"), width=6,
    ),
    panel(
        "Worker utilization", "percentunit",
        "Share of time in which workers run batches, averaged over workers. At 100 % all workers are "
        "busy all the time.",
        (BUSY.replace("sum", "avg", 1), "busy"), width=6,
    ),
    panel(
        "Batch slowdown", "short",
        "Current batch time divided by the batch time measured at start. Above 1.5, something slows "
        "down the device, or the inputs have changed.",
        (f"max by (instance) (batchfleet_worker_slowdown_ratio{{{CHOSEN}}})", "{{instance}}"),
        width=6,
    ),
    panel(
        "Mean latency by stage", "s",
        "Mean time in the queue, of waiting for the batch to start, and of the model's run. The rest "
        "of a request's latency is HTTP, Redis and network.",
        (mean("batchfleet_worker_queue_wait_seconds"), "queue"),
        (mean("batchfleet_worker_batch_wait_seconds"), "batch"),
        (mean("batchfleet_worker_batch_seconds"), "model"), width=6, stack=True,
    ),
    row("What does the fleet cost?"),
    panel(
        "Rows per busy second", "short",
        "Rows per second of batch time. Larger batches raise this value.",
        (f"{ROWS} / {BUSY}", "rows per busy second"),
    ),
    panel(
        "Worker seconds per 1,000 answers", "s",
        "Worker time per 1,000 answers, idle time included. Multiply by the price of a worker second "
        "to get the cost.",
        (f"1000 * {LIVE} / {ANSWERED}", "worker seconds"),
    ),
    panel(
        "Padding", "percentunit",
        "Share of padding in all rows. Batches are padded to the sizes in --batch-sizes.",
        (f"{PADDED} / ({ROWS} + {PADDED})", "padding"),
    ),
]

INTERNALS = [
    row("Gateways"),
    panel(
        "Requests by gateway", "reqps",
        "Requests per second. Differences are normal, because batches form across gateways. A gateway "
        "at 0 gets no traffic.",
        (rate("batchfleet_gateway_offered_total", by="instance"), "{{instance}}"), width=6,
    ),
    panel(
        "In flight by gateway", "short",
        "Requests that are accepted and not yet answered. The limit is --max-in-flight.",
        (f"sum by (instance) (batchfleet_gateway_in_flight{{{CHOSEN}}})", "{{instance}}"), width=6,
    ),
    panel(
        "Body memory", "bytes",
        "Bytes of request and response bodies in memory. The limit is --max-body-bytes-in-flight.",
        (f"batchfleet_gateway_body_bytes{{{PLACE}}}", "{{instance}}"), width=6,
    ),
    panel(
        "Losses and repairs", "short",
        "Per second: requests resubmitted because the queue lost them, interruptions of the queue, "
        "unclaimed replies (duplicates, or the request had ended), and replies to gateways that are "
        "gone.",
        (rate("batchfleet_gateway_resubmissions_total", chosen=PLACE), "resubmitted"),
        (rate("batchfleet_gateway_interruptions_total", chosen=PLACE), "interruptions"),
        (rate("batchfleet_gateway_unclaimed_replies_total", chosen=PLACE), "unclaimed replies"),
        (rate("batchfleet_worker_undeliverable_replies_total"), "replies without a gateway"), width=6,
    ),
    panel(
        "Denied requests", "reqps",
        "Requests per second that were denied with 401, 403 or 429, on any path, by reason. Clients whose "
        "key or token has ended show as expired_key and expired_token, guesses as unknown_key and "
        "throttled.",
        (rate("batchfleet_gateway_denied_total", by="reason", chosen=PLACE), "{{reason}}"), width=12, stack=True,
    ),
    panel(
        "Failed reloads", "short",
        "Failed reads per second of API keys, TLS files and token keys. Their previous content stays valid.",
        (rate("batchfleet_gateway_reload_failures_total", by="file", chosen=PLACE), "{{file}}"), width=12,
    ),
    row("Latency by stage"),
    panel(
        "p99 by stage", "s",
        "Causes of a slow stage. Queue: too few workers. Batch: long batches, or --linger. Model: the "
        "device. Redis: the Redis server.",
        (quantile(0.99, "batchfleet_gateway_request_seconds"), "request"),
        (quantile(0.99, "batchfleet_worker_queue_wait_seconds"), "queue"),
        (quantile(0.99, "batchfleet_worker_batch_wait_seconds"), "batch"),
        (quantile(0.99, "batchfleet_worker_batch_seconds"), "model"),
        (quantile(0.99, "batchfleet_worker_broker_seconds"), "Redis, replies"), width=12,
    ),
    panel(
        "Mean request in Triton's metrics", "µs",
        "Mean durations from the nv_inference_* metrics, as in Triton's dashboards.",
        *(
            (f"{rate(f'nv_inference_{part}_duration_us')} / {rate('nv_inference_request_success')}", part)
            for part in ("request", "queue", "compute_input", "compute_infer", "compute_output")
        ),
        width=12,
    ),
    row("Workers"),
    panel(
        "Rows by worker", "short", "Rows per second of each worker.",
        (rate("batchfleet_worker_batch_size_sum", by="instance"), "{{instance}}"), width=6,
    ),
    panel(
        "Utilization by worker", "percentunit", "Share of time in which each worker runs batches.",
        (rate("batchfleet_worker_batch_seconds_sum", by="instance"), "{{instance}}"), width=6,
    ),
    panel(
        "N by worker", "short",
        "N, the maximum rows per batch, and the interval from which N is chosen: from the least that "
        "keeps up with the load to the most that meets the latency target and still raises "
        "throughput.",
        (f"max by (instance) (batchfleet_worker_batch_limit{{{CHOSEN}}})", "{{instance}}"),
        (f"min (batchfleet_worker_batch_limit_least{{{CHOSEN}}})", "least"),
        (f"max (batchfleet_worker_batch_limit_most{{{CHOSEN}}})", "most"), width=6,
    ),
    panel(
        "What limits N", "short",
        "Number of workers by the bound of their N. `slo`: the latency target. `rate_matched`: the "
        "load. `max_batch`: --max-batch or the model. `memory`: larger batches ran out of memory.",
        (f"sum by (bound) (batchfleet_worker_batch_limit_bound{{{CHOSEN}}})", "{{bound}}"), width=6, stack=True,
    ),
    panel(
        "Batch release reasons", "short",
        "Batches per second by reason. `full`: N rows. `drained`: no more jobs waited. `linger`: "
        "--linger had passed. `suspect`: a single job that was in the batch of a worker that died.",
        (rate("batchfleet_worker_released_total", by="reason"), "{{reason}}"), width=6, stack=True,
    ),
    panel(
        "Batch size", "short", "Rows per batch: median, p95 and mean.",
        (quantile(0.5, "batchfleet_worker_batch_size"), "p50"),
        (quantile(0.95, "batchfleet_worker_batch_size"), "p95"),
        (mean("batchfleet_worker_batch_size"), "mean"), width=6,
    ),
    panel(
        "L(b)", "s",
        "Expected time of a batch by number of rows, of the slowest worker.",
        (f"max by (rows) (batchfleet_worker_expected_batch_seconds{{{CHOSEN}}})", "{{rows}}"),
        kind="bargauge", width=6,
    ),
    panel(
        "Capacity by worker", "short",
        "Rows per second that each worker can run within the latency target; 0 while the worker drains.",
        (f"sum by (instance) (batchfleet_worker_capacity_rows_per_second{{{CHOSEN}}})", "{{instance}}"), width=6,
    ),
    panel(
        "Job outcomes", "short",
        "Jobs per second by outcome. `handed_back`: returned to the queue by a stopping worker. "
        "`poison`: crashed several workers. `orphaned`: the gateway of the job is gone.",
        (rate("batchfleet_worker_jobs_total", by="outcome"), "{{outcome}}"), width=6, stack=True,
    ),
    panel(
        "Failures and recoveries", "short",
        "Per second: jobs reclaimed from dead workers, failed batches that were halved, failed "
        "runs by error class, and answers that depended on the other requests of their batch.",
        (rate("batchfleet_worker_reclaimed_total"), "reclaimed"),
        (rate("batchfleet_worker_sentinel_checks_total", 'finding="different"'), "mixed"),
        (rate("batchfleet_worker_bisections_total"), "halved"),
        (rate("batchfleet_worker_engine_errors_total", by="class"), "failed: {{class}}"), width=6,
    ),
    panel(
        "Execution providers", "short", "Number of workers by model and execution provider.",
        (f"count by (model, version, provider) (batchfleet_worker_execution_provider{{{CHOSEN}}})",
         "{{model}} {{version}}: {{provider}}"), kind="bargauge", width=6,
    ),
    panel(
        "Versions", "short",
        "Number of processes by version of Batchfleet, and of workers whose model differs from the one "
        "by which gateways check requests.",
        (f"count by (version) (batchfleet_build_info{{{PLACE}}})", "Batchfleet {{version}}"),
        (f"sum ({shared('batchfleet_gateway_mismatched_workers')})", "workers with another model"),
        kind="bargauge", width=6,
    ),
    row("Redis"),
    panel(
        "Round trips", "s",
        "p99 and median of a small command (gateways), and of sending the replies of a batch (workers).",
        (quantile(0.99, "batchfleet_gateway_broker_seconds", chosen=PLACE), "command, p99"),
        (quantile(0.5, "batchfleet_gateway_broker_seconds", chosen=PLACE), "command, p50"),
        (quantile(0.99, "batchfleet_worker_broker_seconds"), "replies, p99"),
        (quantile(0.5, "batchfleet_worker_broker_seconds"), "replies, p50"),
    ),
    panel(
        "Failed Redis calls", "short",
        "Failed calls per second by error, and Redises that a gateway cannot reach. During short outages clients only see higher latency.",
        (rate("batchfleet_gateway_broker_errors_total", by="code", chosen=PLACE), "gateways: {{code}}"),
        (rate("batchfleet_worker_broker_errors_total", by="code"), "workers: {{code}}"),
        (f"max by (redis) (batchfleet_redis_away{{{PLACE}}})", "out of reach: Redis {{redis}}"),
    ),
    panel(
        "Redis memory", "percentunit",
        "Used share of the maxmemory of each Redis that has a limit. At 80 % it gets no more requests; gateways refuse those that no other can take.",
        (f"max by (redis) (batchfleet_redis_memory_ratio{{{PLACE}}})", "Redis {{redis}}"),
    ),
    row("Controller"),
    panel(
        "Wanted workers", "short",
        "Number of workers that the controller chose, by fleet. It is the minimum of the autoscaler.",
        (f"max by (fleet) (batchfleet_controller_wanted_workers{{{PLACE}}})", "{{fleet}}"), width=6,
    ),
    panel(
        "Scaling reasons", "short",
        "Reason for the number of workers, by fleet. `max`: the load needs more workers than "
        "scaling.max. `stale`: no recent traffic reports of gateways.",
        (f"max by (fleet, reason) (batchfleet_controller_reason{{{PLACE}}}) > 0", "{{fleet}}: {{reason}}"), width=6,
    ),
    panel(
        "Load and capacity by fleet", "short",
        "Offered rows per second, and rows per second that the workers can run, by fleet.",
        (f"max by (fleet) (batchfleet_controller_offered_rows_per_second{{{PLACE}}})", "{{fleet}}: offered"),
        (f"max by (fleet) (batchfleet_controller_capacity_rows_per_second{{{PLACE}}})", "{{fleet}}: capacity"), width=6,
    ),
    panel(
        "Capacity trust", "percentunit",
        "Kappa: share of the measured capacity that the fleet has proved under load.",
        (f"min by (fleet) (batchfleet_controller_trust_ratio{{{PLACE}}})", "{{fleet}}"), width=6,
    ),
    panel(
        "Controller turns", "short", "Reconciliations per second, by outcome.",
        (rate("batchfleet_controller_turns_total", by="outcome", chosen=PLACE), "{{outcome}}"), width=6,
    ),
    panel(
        "Leader", "short", "1 for the controller that is the leader. All at 0: there is no leader.",
        (f"batchfleet_controller_leading{{{PLACE}}}", "{{instance}}"), width=6,
    ),
    panel(
        "Conditions", "short",
        "Conditions of each fleet (1: true), as in `kubectl describe modelfleet`.",
        (f"max by (fleet, condition) (batchfleet_controller_condition{{{PLACE}}})", "{{fleet}}: {{condition}}"), width=6,
    ),
    panel(
        "Latency seen by the controller", "s", "Recent p99 by fleet; 0 while unknown.",
        (f"max by (fleet) (batchfleet_controller_p99_seconds{{{PLACE}}})", "{{fleet}}"), width=6,
    ),
    row("Processes"),
    panel(
        "CPU", "percentunit", "CPU time per second of each process; 100 % is one core.",
        (f"rate(process_cpu_seconds_total{{{PLACE}}}[{RATE}])", "{{instance}}"),
    ),
    panel(
        "Memory", "bytes", "Resident memory of each process.",
        (f"process_resident_memory_bytes{{{PLACE}}}", "{{instance}}"),
    ),
    panel(
        "Open files", "short", "Open files of each process: about one per connection.",
        (f"process_open_fds{{{PLACE}}}", "{{instance}}"),
    ),
]


def variables():
    """The variables of a board. The data source comes first, because the others query it."""
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
            "description": "URL of docs/operating/runbooks.md of Batchfleet",
            "query": "/docs/operating/runbooks.md",
        },
    ]


def board(uid, title, description, other, panels):
    """The JSON of a board, with panels placed from left to right, row by row."""
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
    """File names and their contents."""
    names = [("batchfleet-overview", "Batchfleet: Overview"),
             ("batchfleet-internals", "Batchfleet: Internals")]
    made = {
        "overview.json": board(
            *names[0], "Health, latency target, limits and cost of the fleet.",
            names[1], OVERVIEW),
        "internals.json": board(
            *names[1], "Gateways, latency by stage, workers, Redis and the controller's decisions.",
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
        sys.exit(f"out of date: {', '.join(wrong)}; run dashboards/boards.py")


if __name__ == "__main__":
    main()
