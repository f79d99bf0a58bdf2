"""The real Grafana as a process beside the cluster. ADDONS names the folder with the program `grafana-server` and with
Grafana's own files in `grafana`: what its packages put into /usr/share/grafana."""

import base64
import json
import pathlib
import re
import tempfile
import urllib.parse
import urllib.request

from addons import at_hand, free_port, process
from kube import NO_METRIC, await_
from load import troubles
from prometheus import Prometheus

PASSWORD = "boards"
# What Grafana puts into a query for a board's variables.
CHOICES = {"$namespace": ".*", "$model": ".*", "$__rate_interval": "15s"}


def real_grafana(stage):
    """The real Grafana loads the chart's boards from their ConfigMaps, and Prometheus answers every query of every
    panel through it."""
    found = at_hand("GRAFANA", "grafana-server", "grafana")
    if not found:
        return "GRAFANA is not 1", None
    program, home = found
    stage.upgrade(NO_METRIC, "monitoring.dashboards.enabled=true")
    report = stage.load("echo", 20, 5).report()
    with tempfile.TemporaryDirectory() as folder, Prometheus(stage.namespace) as prometheus:
        boards = provision(stage.namespace, pathlib.Path(folder), prometheus)
        grafana = Grafana(free_port("127.0.0.1"))
        with process(folder, "grafana", program, f"--homepath={home}", **grafana.variables(folder)):
            await_("Grafana has every board", lambda: boards.keys() <= grafana.boards(), seconds=60)
            summary, wrong = asked(grafana, boards)
    return summary, wrong + troubles(report)


def provision(namespace, folder, prometheus):
    """Writes the boards of the ConfigMaps and the data source into Grafana's folder. Returns the boards by their id."""
    for name in ("boards", "datasources", "dashboards"):
        folder.joinpath("conf", name).mkdir(parents=True)
    files = {}
    for each in namespace.get("configmaps", "--selector", "grafana_dashboard")["items"]:
        files.update(each["data"])
    for name, text in files.items():
        folder.joinpath("conf/boards", name).write_text(text)
    source = {"name": "Prometheus", "type": "prometheus", "access": "proxy", "url": f"http://{prometheus.address}"}
    provider = {"name": "boards", "type": "file", "options": {"path": f"{folder}/conf/boards"}}
    # JSON is YAML.
    folder.joinpath("conf/datasources/all.yaml").write_text(json.dumps({"apiVersion": 1, "datasources": [source]}))
    folder.joinpath("conf/dashboards/all.yaml").write_text(json.dumps({"apiVersion": 1, "providers": [provider]}))
    boards = map(json.loads, files.values())
    return {board["uid"]: board for board in boards}


def asked(grafana, boards):
    """Compares the boards with Grafana's, and sends every query. Returns the summary, and what is wrong."""
    wrong, queries = [], []
    for uid, board in boards.items():
        loaded = grafana.get(f"dashboards/uid/{uid}")["dashboard"]
        titles = lambda it: [panel["title"] for panel in it["panels"]]
        wrong += [] if titles(loaded) == titles(board) else [f"{uid} has other panels"]
        queries += [target["expr"] for panel in loaded["panels"] for target in panel.get("targets", [])]
    results = [grafana.ask(query) for query in queries]
    wrong += [f"not answered: {query}" for query, result in zip(queries, results) if result is None]
    wrong += [] if any(results) else ["every result is empty"]
    full = sum(map(bool, results))
    return (f"Grafana {grafana.get('health')['version']} has {len(boards)} boards; {len(queries)} queries are answered,"
            f" {full} of them with data"), wrong


class Grafana:
    """Grafana's API."""

    def __init__(self, port):
        self.port = port

    def variables(self, folder):
        """Settings as environment variables, with all data in a folder."""
        settings = {"SERVER_HTTP_ADDR": "127.0.0.1", "SERVER_HTTP_PORT": str(self.port), "PATHS_DATA": f"{folder}/data",
                    "PATHS_LOGS": f"{folder}/logs", "PATHS_PLUGINS": f"{folder}/plugins",
                    "PATHS_PROVISIONING": f"{folder}/conf", "SECURITY_ADMIN_PASSWORD": PASSWORD,
                    "ANALYTICS_CHECK_FOR_UPDATES": "false", "ANALYTICS_REPORTING_ENABLED": "false"}
        return {f"GF_{name}": value for name, value in settings.items()}

    def get(self, what):
        user = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{what}", headers={"Authorization": f"Basic {user}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def boards(self):
        """The ids of the loaded boards; none while Grafana starts."""
        try:
            return {each["uid"] for each in self.get("search?type=dash-db")}
        except OSError:
            return set()

    def ask(self, query):
        """The result of a query through the data source; None if it is refused."""
        query = re.sub(r"\$\w+", lambda name: CHOICES[name[0]], query)
        number = self.get("datasources/name/Prometheus")["id"]
        try:
            answer = self.get(f"datasources/proxy/{number}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
        except OSError:
            return None
        return answer["data"]["result"]
