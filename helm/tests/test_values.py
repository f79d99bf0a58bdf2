"""Each value does what its comment says; unknown values are refused by name."""

import pytest
import yaml

import chart
from chart import kinds, refusal, the

EVERYTHING = chart.ROOT / "helm/tests/values/everything.yaml"
EXTERNAL = ["redis.bundled=false"]
EXTERNAL += [f"redis.external.{who}Secret=my-{who}" for who in ("gateway", "worker", "controller")]


def container(document: dict) -> dict:
    return chart.pod_of(document)["containers"][0]


def gateway(*settings: str) -> dict:
    return the("Deployment", "-gateway", *settings)


def controller(*settings: str) -> dict:
    return the("Deployment", "-controller", *settings)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("gateway.replcas=3", "replcas"),
        ("gatway.replicas=3", "gatway"),
        ("gateway.settings.maxInFlihgt=3", "maxInFlihgt"),
        ("gateway.settings.lameDuck=3s", "lameDuck"),
        ("controller.settings.workerImage=x", "workerImage"),
        ("models.digits.modl.name=x", "modl"),
        ("models.digits.scaling.maximum=3", "maximum"),
        ("redis.maxmemory=1gb", "maxmemory"),
        ("monitoring.rules.enable=true", "enable"),
    ],
)
def test_a_typo_is_refused_with_its_name(setting, key):
    assert f"'{key}' not allowed" in refusal(setting)


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("gateway.service.type=Public", "/gateway/service/type"),
        ("gateway.settings.deadline=soon", "/gateway/settings/deadline"),
        ("gateway.settings.logFormat=xml", "/gateway/settings/logFormat"),
        ("gateway.autoscaling.min=0", "/gateway/autoscaling/min"),
        ("redis.maxMemory=lots", "/redis/maxMemory"),
        ("demo.enabled=maybe", "/demo/enabled"),
        ("images.pullPolicy=Sometimes", "/images/pullPolicy"),
        ("monitoring.rules.runbookUrl=", "/monitoring/rules/runbookUrl"),
        ("models.digits.batch.mode=large", "/models/digits/batch/mode"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(setting, place):
    assert f"'{place}'" in refusal(setting)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            [*EXTERNAL, "redis.external.tls.clientCertificate=true"],
            "needs redis.external.tls.secret",
        ),
        (["redis.bundled=false"], "redis.external.gatewaySecret must name the secret"),
        ([*EXTERNAL, "redis.tls.enabled=true"], "set redis.external.tls"),
        (["redis.tls.existingSecret=mine"], "without redis.tls.enabled"),
        (["redis.shards=2", "redis.leaving=2"], "redis.leaving must be smaller than redis.shards"),
        (["redis.shards=17"], "redis.shards is at most 16"),
        (["redis.shards=2", "redis.modelUsers=true"], "users in a single Redis"),
        (["gateway.jwt.audiences[0]=models"], "without gateway.jwt.issuer"),
        (["gateway.jwt.jwksSecret=keys"], "without gateway.jwt.issuer"),
        (["gateway.autoscaling.min=5", "gateway.autoscaling.max=2"], "min must not be more than"),
        (
            ["gateway.httpRoute.enabled=true", "gateway.allowAnonymous=true"],
            "needs gateway.httpRoute.parentRefs",
        ),
        (
            ["gateway.grpcRoute.enabled=true", "gateway.allowAnonymous=true"],
            "needs gateway.grpcRoute.parentRefs",
        ),
        (
            [
                "gateway.grpcRoute.enabled=true",
                "gateway.grpcRoute.parentRefs[0].name=public",
                "gateway.grpc.enabled=false",
                "gateway.allowAnonymous=true",
            ],
            "needs gateway.grpc.enabled",
        ),
        (["monitoring.serviceMonitor.enabled=true", "monitoring.podMonitors.enabled=true"], "both"),
        (["demo.enabled=true", "models.echo.model.source.image.reference=x"], "named echo"),
    ],
)
def test_contradictory_values_are_refused_with_a_remedy(settings, complaint):
    assert complaint in refusal(*settings)


def test_a_setting_becomes_a_flag():
    assert "--max-in-flight=4096" in container(gateway("gateway.settings.maxInFlight=4096"))["args"]


def test_a_large_number_is_written_out():
    arguments = container(the("Deployment", "-gateway", values=EVERYTHING))["args"]
    assert "--max-in-flight=4000000" in arguments
    assert "--trusted-proxies=10.0.0.0/8,10.1.2.3" in arguments


def test_programs_read_the_redis_url_from_a_file():
    for deployment in (gateway(), controller()):
        assert "--redis-url-file=/etc/batchfleet/redis/url" in container(deployment)["args"]


def test_the_grace_period_outlasts_the_drain():
    pod = chart.pod_of(gateway("gateway.shutdown.drainSeconds=90"))
    assert "--drain-timeout=90s" in pod["containers"][0]["args"]
    assert pod["terminationGracePeriodSeconds"] == 95


def test_an_autoscaled_deployment_sets_no_replicas():
    assert "replicas" not in gateway("gateway.autoscaling.enabled=true")["spec"]
    assert gateway("gateway.autoscaling.enabled=false", "gateway.replicas=3")["spec"]["replicas"] == 3


def test_gateways_are_autoscaled_by_default_only_where_a_metric_is():
    assert gateway("gateway.autoscaling.min=4")["spec"]["replicas"] == 4
    assert "HorizontalPodAutoscaler" not in chart.kinds()
    assert "HorizontalPodAutoscaler" in chart.kinds("gateway.autoscaling.inFlight=200")
    rendered = chart.template("--api-versions", "metrics.k8s.io/v1beta1").stdout
    assert "kind: HorizontalPodAutoscaler" in rendered


def test_gateways_are_spread_over_nodes_and_zones():
    keys = [each["topologyKey"] for each in chart.pod_of(gateway())["topologySpreadConstraints"]]
    assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]


def test_requests_in_flight_scale_gateways_only_when_enabled():
    metrics = the("HorizontalPodAutoscaler", "-gateway", "gateway.autoscaling.enabled=true")["spec"]["metrics"]
    assert [each["type"] for each in metrics] == ["Resource"]
    more = the("HorizontalPodAutoscaler", "-gateway", "gateway.autoscaling.inFlight=200")
    assert more["spec"]["metrics"][1]["pods"]["target"]["averageValue"] == "200"


def test_images_come_from_one_registry_with_one_tag():
    settings = ("images.registry=r.example.com/ml/", "images.tag=1.2")
    assert container(gateway(*settings))["image"] == "r.example.com/ml/batchfleet/gateway:1.2"
    assert "--worker-image=r.example.com/ml/batchfleet/worker:1.2" in container(controller(*settings))["args"]


def test_fleets_pull_with_the_same_secrets_unless_they_name_their_own():
    fleet = the("ModelFleet", "digits", values=EVERYTHING)
    assert fleet["spec"]["pod"]["imagePullSecrets"] == ["registry"]


def test_the_controller_has_no_rights_outside_its_namespace():
    assert "ClusterRoleBinding" not in kinds()
    cluster = [rule for each in chart.objects() if each["kind"] == "ClusterRole" for rule in each["rules"]]
    assert {group for rule in cluster for group in rule["apiGroups"]} == {"batchfleet.dev"}
    rules = the("Role", "-controller")["rules"]
    assert all("*" not in rule["verbs"] + rule["resources"] for rule in rules)
    assert all("secrets" not in rule["resources"] for rule in rules)


def test_the_controller_may_list_and_watch_every_kind_of_which_it_keeps_a_copy():
    verbs = {kind: set(rule["verbs"]) for rule in the("Role", "-controller")["rules"] for kind in rule["resources"]}
    copied = ["modelfleets", "deployments", "horizontalpodautoscalers", "poddisruptionbudgets", "pods",
              "scaledobjects", "podmonitors"]
    assert [kind for kind in copied if not {"list", "watch"} <= verbs[kind]] == []


def test_only_the_controller_has_a_kubernetes_token():
    accounts = [each for each in chart.objects() if each["kind"] == "ServiceAccount"]
    assert all(account["automountServiceAccountToken"] is False for account in accounts)
    pods = {each["metadata"]["name"]: pod for each in chart.objects() if (pod := chart.pod_of(each))}
    able = {name for name, pod in pods.items() if pod["automountServiceAccountToken"]}
    assert able == {"rel-batchfleet-controller", job()["metadata"]["name"]}


def test_queue_depths_are_served_to_autoscalers_when_enabled():
    assert "APIService" not in kinds()
    setting = "externalMetrics.enabled=true"
    api = the("APIService", "v1beta1.external.metrics.k8s.io", setting)["spec"]
    assert "insecureSkipTLSVerify" not in api
    arguments = container(controller(setting))["args"]
    assert "--external-metrics-listen=[::]:6443" in arguments
    assert f"--external-metrics-service={api['service']['name']}" in arguments


def test_the_controller_may_keep_the_certificate_of_the_metrics_api_and_no_other_secret():
    setting = "externalMetrics.enabled=true"
    secrets = [rule for rule in the("Role", "-controller", setting)["rules"] if "secrets" in rule["resources"]]
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in secrets] == [
        (["create"], None), (["get", "update"], ["rel-batchfleet-metrics-api"]),
    ]
    authority, namespace = the("ClusterRole", "-authority", setting)["rules"]
    assert authority["resourceNames"] == ["v1beta1.external.metrics.k8s.io"]
    assert authority["verbs"] == ["get", "patch", "delete"]
    # It deletes the APIService with the namespace.
    assert namespace["resourceNames"] == ["ns"] and namespace["verbs"] == ["list", "watch"]
    reader = [each for each in chart.objects(None, setting) if each["metadata"].get("namespace") == "kube-system"]
    assert [each["roleRef"]["name"] for each in reader] == ["extension-apiserver-authentication-reader"]


def test_the_bundled_redis_has_no_persistence_and_never_evicts():
    settings = the("ConfigMap", "-redis")["data"]["redis.conf"].splitlines()
    assert {'save ""', "appendonly no", "maxmemory 1gb", "maxmemory-policy noeviction"} <= set(settings)
    more = the("ConfigMap", "-redis", "redis.commonConfiguration=io-threads 2")["data"]["redis.conf"]
    assert more.splitlines() == [*settings, "io-threads 2"]


def test_each_of_several_redises_has_a_service_of_its_own():
    settings = ["redis.shards=3", "redis.leaving=1"]
    redis = the("StatefulSet", "-redis", *settings)
    assert redis["spec"]["replicas"] == 3
    for number, name in enumerate(["-redis", "-redis-1", "-redis-2"]):
        selector = the("Service", name, *settings)["spec"]["selector"]
        labels = redis["spec"]["template"]["metadata"]["labels"]
        pod = f"{redis['metadata']['name']}-{number}"
        assert selector.pop("statefulset.kubernetes.io/pod-name") == pod
        assert selector.items() <= labels.items()
    assert {"--shards=3", "--leaving=1"} <= set(container(job(*settings))["args"])


def test_programs_are_replaced_when_the_number_of_redises_changes_but_not_redis():
    def checksums(*settings: str) -> list[str]:
        pods = [controller(*settings), the("Deployment", "-gateway", *settings), the("StatefulSet", "-redis", *settings)]
        annotations = [pod["spec"]["template"]["metadata"].get("annotations", {}) for pod in pods]
        return [each.get("batchfleet.dev/checksum", "") for each in annotations]

    one, three, leaving = checksums(), checksums("redis.shards=3"), checksums("redis.shards=3", "redis.leaving=1")
    assert one[0] != three[0] and one[1] != three[1] and one[2] == three[2]
    # Workers leave first, and the controller replaces them.
    assert three == leaving
    workers = [container(controller("redis.shards=3", f"redis.leaving={number}"))["args"] for number in (0, 1)]
    assert "--worker-redises=3" in workers[0] and "--worker-redises=2" in workers[1]
    assert "--worker-redises" not in str(controller()) and "--workers-per-shard" not in str(controller())
    assert "--workers-per-shard=4" in container(controller("redis.workersPerShard=4"))["args"]


@pytest.mark.parametrize("values", chart.VALUES, ids=lambda values: values.stem if values else "defaults")
def test_two_renderings_are_equal_and_contain_no_secret(values):
    arguments = ["--values", str(values)] if values else []
    first, second = chart.template(*arguments), chart.template(*arguments)
    assert first.returncode == 0 and first.stdout == second.stdout
    assert "Secret" not in [each["kind"] for each in chart.objects(values)]


def job(*settings: str) -> dict:
    (found,) = [each for each in chart.objects(None, *settings) if each["kind"] == "Job"]
    return found


def test_a_job_makes_the_secrets_that_pods_mount_before_the_installation():
    annotations = job()["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
    arguments = container(job())["args"]
    assert [each for each in arguments if "--user" in each] == ["--user=controller", "--user=gateway", "--user=worker"]
    assert f"--redis={the('Service', '-redis')['metadata']['name']}" in arguments
    names = {name for rule in the("Role", "-redis-secrets")["rules"] for name in rule.get("resourceNames", [])}
    mounted = str([chart.pod_of(each) for each in chart.objects() if chart.pod_of(each)])
    for user in ("gateway", "worker", "controller"):
        assert f"rel-batchfleet-redis-user-{user}" in names and f"rel-batchfleet-redis-user-{user}" in mounted
    assert "--worker-redis-secret=rel-batchfleet-redis-user-worker" in mounted


def test_another_image_makes_another_job_because_jobs_cannot_be_changed():
    assert job()["metadata"]["name"] != job("images.tag=v2")["metadata"]["name"]


def test_users_of_models_are_made_by_the_controller_with_a_secret_of_its_own():
    setting, secret = "redis.modelUsers=true", "rel-batchfleet-redis-model-users"
    pod = chart.pod_of(controller(setting))
    assert f"--model-users-secret={secret}" in container(controller(setting))["args"]
    assert "--redis-admin-url-file=/etc/batchfleet/redis-admin/url" in container(controller(setting))["args"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "redis-admin"]
    assert volume["secret"]["secretName"] == "rel-batchfleet-redis-user-admin"
    assert "--user=admin" in container(job(setting))["args"]
    names = [name for rule in the("Role", "-controller", setting)["rules"] for name in rule.get("resourceNames", [])]
    assert secret in names
    # Redis reads them when it starts, also after the value was switched off, while workers still use them.
    for settings in ((setting,), ()):
        volumes = chart.pod_of(the("StatefulSet", "-redis", *settings))["volumes"]
        (models,) = [each["secret"] for each in volumes if each["name"] == "models"]
        assert models["secretName"] == secret and models["optional"]
        assert secret in str(the("ValidatingAdmissionPolicy", "-fleets", *settings))


def test_without_users_of_models_the_controller_has_no_right_to_change_users():
    assert "admin" not in str(container(controller())["args"]).replace("--admin-listen", "")
    assert "redis-user-admin" not in str(chart.pod_of(controller())) + str(chart.pod_of(the("StatefulSet", "-redis")))
    assert not [rule for rule in the("Role", "-controller")["rules"] if "secrets" in rule["resources"]]


def test_users_of_models_in_an_external_redis_need_the_url_of_an_administrator():
    assert "redis.external.adminSecret must name the secret" in chart.refusal(*EXTERNAL, "redis.modelUsers=true")
    settings = [*EXTERNAL, "redis.modelUsers=true", "redis.external.adminSecret=my-admin"]
    (volume,) = [each for each in chart.pod_of(controller(*settings))["volumes"] if each["name"] == "redis-admin"]
    assert volume["secret"]["secretName"] == "my-admin"


def test_existing_secrets_need_no_job():
    settings = [f"redis.existingSecrets.{user}=my-{user}" for user in ("gateway", "worker", "controller")]
    assert "Job" not in kinds(*settings)
    assert "--worker-redis-secret=my-worker" in container(controller(*settings))["args"]
    assert "--user=worker" not in container(job(*settings[:2]))["args"]


def test_the_redis_pod_is_replaced_when_its_settings_change_and_may_be_drained():
    def checksum(*settings):
        return the("StatefulSet", "-redis", *settings)["spec"]["template"]["metadata"]["annotations"]["batchfleet.dev/checksum"]

    assert checksum() == checksum("gateway.replicas=3") != checksum("redis.maxMemory=2gb")
    budgets = [each["metadata"]["name"] for each in chart.objects() if each["kind"] == "PodDisruptionBudget"]
    assert sorted(budgets) == ["rel-batchfleet-controller", "rel-batchfleet-gateway"]
    assert all(the("PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1 for name in budgets)


def test_an_external_redis_replaces_the_bundled_one():
    assert "StatefulSet" not in kinds(*EXTERNAL)
    assert "--worker-redis-secret=my-worker" in container(controller(*EXTERNAL))["args"]


def test_certificates_for_redis_are_files_and_never_in_an_environment():
    settings = [*EXTERNAL, "redis.external.tls.secret=redis-tls"]
    both = [*settings, "redis.external.tls.clientCertificate=true"]
    files = {"--redis-cert": "tls.crt", "--redis-key": "tls.key"}
    for name in ("-gateway", "-controller"):
        assert "redis-tls" not in str(the("Deployment", name, *EXTERNAL))
        trusting, shown = (container(the("Deployment", name, *each)) for each in (settings, both))
        for each in (trusting, shown):
            assert "--redis-ca=/etc/batchfleet/redis-tls/ca.crt" in each["args"]
            assert "/etc/batchfleet/redis-tls" in [mount["mountPath"] for mount in each["volumeMounts"]]
            assert "secret" not in str(each.get("env"))
        for flag, file in files.items():
            argument = f"{flag}=/etc/batchfleet/redis-tls/{file}"
            assert argument in shown["args"] and argument not in trusting["args"]
        volumes = chart.pod_of(the("Deployment", name, *both))["volumes"]
        assert {"secretName": "redis-tls", "defaultMode": 0o440} in [each.get("secret") for each in volumes]
    assert "--worker-redis-tls-secret=redis-tls" in container(controller(*settings))["args"]


def test_the_network_policy_allows_sentinels_as_well_as_redis():
    def ports(*settings):
        rules = the("NetworkPolicy", "-gateway", *EXTERNAL, *settings)["spec"]["egress"]
        return [port["port"] for rule in rules[1:] for port in rule["ports"]]

    assert ports() == [6379, "admin"]
    more = ports("redis.external.port=6380", "redis.external.sentinelPort=26379")
    assert more == [6380, 26379, "admin"]


def test_the_admin_port_is_in_no_ingress_and_in_no_service_for_clients():
    service = the("Service", "rel-batchfleet")
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http", "grpc"]
    ingress = the("Ingress", "", "gateway.ingress.enabled=true", "gateway.allowAnonymous=true")
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]
    assert backend["service"] == {"name": "rel-batchfleet", "port": {"name": "http"}}


def test_workers_accept_connections_only_for_metrics():
    ingress = the("NetworkPolicy", "-worker")["spec"]["ingress"]
    assert [port["port"] for rule in ingress for port in rule["ports"]] == ["admin"]


def test_only_listed_clients_reach_gateways_where_a_list_is_given():
    assert "from" not in the("NetworkPolicy", "-gateway")["spec"]["ingress"][0]
    listed = the("NetworkPolicy", "-gateway", values=EVERYTHING)["spec"]["ingress"][0]["from"]
    assert listed[0] == {"podSelector": {"matchLabels": {"app": "client"}}}


def test_all_programs_with_traces_know_and_reach_the_collector():
    endpoint = "tracing.endpoint=https://collector.tracing"
    flag = "--trace-endpoint=https://collector.tracing"
    serves = container(gateway(endpoint, "tracing.oneIn=200"))["args"]
    assert flag in serves and "--trace-sample=0.005" in serves
    assert "--trace-sample=0" in container(gateway(endpoint, "tracing.oneIn=0"))["args"]
    # The controller passes the endpoint on to the workers.
    assert flag in container(controller(endpoint))["args"]
    for url, port in [("https://a", 443), ("http://a", 80), ("http://a.b:4318", 4318)]:
        for who in ["-gateway", "-worker"]:
            egress = the("NetworkPolicy", who, f"tracing.endpoint={url}")["spec"]["egress"]
            assert [{"port": port}] in [rule["ports"] for rule in egress]
    assert not any("trace" in flag for flag in container(gateway())["args"])


def test_pod_monitors_of_workers_get_the_same_labels_and_interval():
    settings = ["monitoring.podMonitors.labels.release=prometheus", "monitoring.podMonitors.interval=5s"]
    arguments = container(controller(*settings))["args"]
    assert "--pod-monitor-label=release=prometheus" in arguments
    assert "--pod-monitor-interval=5s" in arguments


def test_the_demo_needs_no_volume():
    source = the("ModelFleet", "echo", "demo.enabled=true")["spec"]["model"]["source"]
    assert list(source) == ["emptyDir"]


def test_helm_test_covers_every_model_unless_keys_are_required():
    assert "Pod" not in kinds()
    pod = the("Pod", "-test", "demo.enabled=true", "models.m.model.source.image.reference=x")
    models = [each["args"][2] for each in pod["spec"]["containers"]]
    assert models == ["--model=m", "--model=echo"]
    assert "Pod" not in kinds("demo.enabled=true", "gateway.apiKeysSecret=keys")


def test_pods_have_no_label_that_changes_with_the_chart():
    for document in chart.objects():
        labels = document.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
        assert "helm.sh/chart" not in labels


def test_the_notes_end_with_a_request_to_the_installed_model():
    notes = chart.helm(
        "install", "rel", str(chart.CHART), "--dry-run=client", "--set", "demo.enabled=true"
    ).stdout.split("NOTES:")[1]
    assert "port-forward service/rel-batchfleet 8080:80" in notes
    assert notes.strip().splitlines()[-2].startswith("  curl -s http://127.0.0.1:8080/v2/models/echo/infer")


def test_every_example_beside_the_chart_is_yaml():
    for name in chart.BESIDE:
        assert list(yaml.safe_load_all((chart.CHART / "examples" / name).read_text()))


def test_service_monitors_cover_gateways_and_controllers():
    setting = "monitoring.serviceMonitor.enabled=true"
    services = {
        each["metadata"]["name"]: each for each in chart.objects(None, setting) if each["kind"] == "Service"
    }
    for role in ("gateway", "controller"):
        monitor = the("ServiceMonitor", f"-{role}", setting)["spec"]
        wanted = monitor["selector"]["matchLabels"].items()
        chosen = [name for name, each in services.items() if wanted <= each["metadata"]["labels"].items()]
        assert chosen == [f"rel-batchfleet-{role}-admin"], role
        ports = {port["name"] for port in services[chosen[0]]["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= ports


def test_the_monitors_of_workers_have_the_labels_and_interval_of_the_enabled_kind():
    for kind in ("podMonitors", "serviceMonitor"):
        settings = (f"monitoring.{kind}.{key}" for key in ("enabled=true", "labels.release=prometheus", "interval=7s"))
        arguments = container(the("Deployment", "-controller", *settings))["args"]
        assert "--pod-monitor-label=release=prometheus" in arguments, kind
        assert "--pod-monitor-interval=7s" in arguments, kind


def test_a_default_installation_and_a_rollout_of_gateways_fit_beside_the_system_on_two_cores():
    def cores(amount: str) -> float:
        return float(amount.removesuffix("m")) / 1000 if amount.endswith("m") else float(amount)

    total = 0.0
    for each in chart.objects(None, "demo.enabled=true"):
        if each["kind"] == "ModelFleet":
            total += cores(each["spec"]["worker"]["requests"]["cpu"])
        elif each["kind"] in ("Deployment", "StatefulSet"):
            requests = [c["resources"]["requests"]["cpu"] for c in chart.pod_of(each)["containers"]]
            # Gateways have no `replicas`: their autoscaler starts with 2. A rollout adds one pod.
            replicas = each["spec"].get("replicas", 2) + (each["kind"] == "Deployment")
            total += replicas * sum(map(cores, requests))
    assert total <= 1.3, total
