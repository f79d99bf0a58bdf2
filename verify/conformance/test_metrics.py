"""Metrics in the formats that scrapers ask for, read with the parser of Prometheus' Python client."""

import gzip
import json
import re

import pytest
from prometheus_client.openmetrics import parser as openmetrics

import repository
import wire
from fleet import KINDS, eventually, running

TRACE = "0af7651916cd43dd8448eb211c80319c"
# No program reaches this collector. Exemplars do not depend on it.
TRACING = ("--trace-endpoint", "http://127.0.0.1:9")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROMETHEUS = f"{OPENMETRICS};q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
HISTOGRAMS = {
    "batchfleet_gateway_request_seconds",
    "batchfleet_worker_batch_seconds",
    "batchfleet_worker_batch_wait_seconds",
    "batchfleet_worker_queue_wait_seconds",
}


@pytest.fixture(scope="module", params=KINDS)
def admin_ports(request, tmp_path_factory):
    """The admin ports of a fleet that has answered one traced request."""
    folder = tmp_path_factory.mktemp("metrics")
    worker = TRACING if request.param == "redis" else ()
    options = {"settings": TRACING, "worker": worker, "write": repository.write_echoes}
    with running(folder, request.param, **options) as fleet:
        given = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
        body = json.dumps({"inputs": [given]}).encode()
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        answer = wire.ask(fleet.http, "POST", "/v2/models/echo_fp32/infer", body, headers)
        assert answer.status == 200, answer.body
        yield [program.address("admin") for program in fleet.programs]


def scrape(admin: str, accept: str | None = None, encoding: str | None = None) -> wire.Answer:
    asked = {"accept": accept, "accept-encoding": encoding}
    headers = {name: value for name, value in asked.items() if value}
    answer = wire.ask(admin, "GET", "/metrics", headers=headers)
    assert answer.status == 200, answer.body
    return answer


def families(admin: str) -> list:
    """All families in OpenMetrics. The parser refuses what the specification forbids."""
    answer = scrape(admin, PROMETHEUS)
    assert answer.headers["content-type"] == f"{OPENMETRICS}; charset=utf-8"
    return list(openmetrics.text_string_to_metric_families(answer.body.decode()))


def series(answer: wire.Answer) -> set[str]:
    """The names and labels of all samples, with the bounds of buckets as numbers."""
    samples = (line for line in answer.body.decode().splitlines() if not line.startswith("#"))
    names = (sample.split(" # ")[0].rsplit(" ", 1)[0] for sample in samples)
    number = re.compile(r'\ble="([^"]+)"')
    return {number.sub(lambda bound: f"le={float(bound[1])}", name) for name in names}


def scrapes(admin: str, *asked: tuple) -> list[wire.Answer]:
    """Scrapes during which no series appeared: a gateway finds its queues one after the other."""

    def read() -> list[wire.Answer] | None:
        before = series(scrape(admin))
        answers = [scrape(admin, *each) for each in asked]
        return answers if series(scrape(admin)) == before else None

    return eventually(read, "no series appears while the metrics are scraped")


def test_both_formats_have_the_same_series(admin_ports):
    for admin in admin_ports:
        text, other = scrapes(admin, (), (OPENMETRICS,))
        assert text.headers["content-type"] == "text/plain; version=0.0.4"
        assert series(text) == series(other)


def test_counters_and_units_are_those_of_the_names(admin_ports):
    for admin in admin_ports:
        for family in families(admin):
            names = {sample.name for sample in family.samples}
            if family.type == "counter":
                assert names == {f"{family.name}_total"}
            if family.type == "unknown":
                assert re.match(r"nv_(inference|energy)_", family.name), family
            if family.name.endswith(("_seconds", "_bytes", "_ratio")):
                assert family.unit == family.name.rsplit("_", 1)[1]


def test_a_traced_request_is_the_exemplar_of_its_latencies(admin_ports):
    found = set()
    for admin in admin_ports:
        for family in families(admin):
            for sample in family.samples:
                if sample.exemplar:
                    assert sample.exemplar.labels == {"trace_id": TRACE}
                    assert sample.exemplar.value <= float(sample.labels["le"])
                    assert sample.labels["model"] == "echo_fp32"
                    found.add(family.name)
    assert found >= HISTOGRAMS


def test_metrics_are_zipped_on_request(admin_ports):
    for admin in admin_ports:
        for accept in (None, OPENMETRICS):
            plain, zipped = scrapes(admin, (accept,), (accept, "gzip"))
            assert plain.headers["content-encoding"] is None
            assert zipped.headers["content-encoding"] == "gzip"
            assert zipped.headers["content-type"] == plain.headers["content-type"]
            assert len(zipped.body) < len(plain.body) / 2
            lines = gzip.decompress(zipped.body).decode().splitlines()
            assert [line.split(" ")[0] for line in lines] == [
                line.split(" ")[0] for line in plain.body.decode().splitlines()
            ]
