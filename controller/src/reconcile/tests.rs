//! Turns of a fleet against an API server that is scripted, and a broker in memory.

use batchfleet_broker::{
    Announcement, BatchWish, Batching, Broker, BrokerError, Consumer, GatewayId, Job, ModelSpec,
    Priority, Producer, QueueName, RequestId, Traffic, WorkerId, memory::MemoryBroker,
};
use kube::runtime::events::Reporter;
use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::{fake::FakeApi, objects::RedisAddress};

const FLEETS: &str = "/apis/batchfleet.dev/v1alpha1/namespaces/ml/modelfleets/digits";

/// A fleet of one worker with L(b) = 8 + 2 b milliseconds, and one gateway.
struct World {
    server: FakeApi,
    context: Arc<Context>,
    leads: watch::Sender<bool>,
    gateway: Arc<dyn Producer>,
    worker: Arc<dyn Consumer>,
    offered: u64,
}

impl World {
    async fn new(changes: &Value) -> Self {
        let server = FakeApi::default();
        server.add(FLEETS, fleet(changes));
        let broker = MemoryBroker::new(1_000);
        let (leading, leads) = watch::channel(true);
        let redis = RedisAddress::Url("redis://redis:6379/0".to_owned());
        let context = Arc::new(Context {
            client: server.client(),
            observer: broker.observer().await.unwrap(),
            controller: broker.controller().await.unwrap(),
            defaults: WorkerDefaults {
                image: "worker:1".to_owned(),
                redis,
                monitor_labels: std::collections::BTreeMap::new(),
            },
            recorder: Recorder::new(server.client(), Reporter::from("test")),
            metrics: ControllerMetrics::register(&prometheus::Registry::new()).unwrap(),
            leads,
            started: Instant::now(),
            fleets: Fleets::default(),
            others: Others::default(),
        });
        Self {
            server,
            context,
            leads: leading,
            gateway: broker.producer(GatewayId(1)).await.unwrap(),
            worker: broker.consumer(queue(), WorkerId(1)).await.unwrap(),
            offered: 0,
        }
    }

    /// A tick in which so many requests per second come, and then a turn; what was written.
    async fn tick(&mut self, rate: u64) -> Result<Vec<String>, ControlError> {
        advance(TICK).await;
        self.offered += rate * TICK.as_secs();
        self.gateway.report(&[traffic(self.offered)]).await.unwrap();
        self.worker.renew(&word()).await.unwrap();
        self.turn().await
    }

    async fn turn(&mut self) -> Result<Vec<String>, ControlError> {
        let fleet =
            Arc::new(serde_json::from_value(self.server.get("modelfleets/digits")).unwrap());
        reconcile(fleet, self.context.clone()).await?;
        // What an autoscaler and a Deployment's controller would do.
        let floor =
            self.server.get("horizontalpodautoscalers/digits")["spec"]["minReplicas"].clone();
        if !self.server.get("deployments/digits").is_null() {
            self.server.edit("deployments/digits", |deployment| {
                let asleep = deployment["spec"]["replicas"] == 0;
                if floor.is_number() && !asleep {
                    deployment["spec"]["replicas"] = floor;
                }
                let replicas = deployment["spec"]["replicas"].clone();
                deployment["status"] = json!({"readyReplicas": replicas});
            });
        }
        Ok(self.server.writes())
    }

    async fn ticks(&mut self, count: u32, rate: u64) {
        for _ in 0..count {
            self.tick(rate).await.unwrap();
        }
    }

    fn floor(&self) -> Value {
        self.server.get("horizontalpodautoscalers/digits")["spec"]["minReplicas"].clone()
    }

    /// Whether gateways may let callers wait for a worker.
    async fn is_promised(&self) -> bool {
        let words = self.context.observer.announcements().await.unwrap();
        words.iter().any(|word| word.promised)
    }

    /// A condition, and why.
    fn why(&self, name: &str) -> String {
        let fleet = self.server.get("modelfleets/digits");
        let conditions = fleet["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == name).unwrap();
        format!("{}: {}", found["status"], found["message"])
    }

    fn condition(&self, name: &str) -> Value {
        let fleet = self.server.get("modelfleets/digits");
        let conditions = fleet["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == name);
        found.map_or(Value::Null, |condition| condition["status"].clone())
    }
}

fn fleet(changes: &Value) -> Value {
    let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
    let mut spec = json!({"model": {"name": "m", "source": source}, "scaling": {"max": 24}});
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    json!({
        "apiVersion": "batchfleet.dev/v1alpha1",
        "kind": "ModelFleet",
        "metadata": {"name": "digits", "namespace": "ml", "uid": "1234", "generation": 1},
        "spec": spec,
    })
}

/// What an API server says of an API that somebody has installed.
fn served(api: &str, plural: &str) -> Value {
    let resource = json!({
        "name": plural, "singularName": "", "namespaced": true, "kind": "Any", "verbs": ["list"],
    });
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": [resource]})
}

fn queue() -> QueueName {
    QueueName::new("m", 1)
}

fn job() -> Job {
    Job {
        id: RequestId::random(),
        gateway: GatewayId(1),
        attempt: 0,
        priority: Priority::Default,
        ttl: Duration::from_mins(1),
        rows: 1,
        digest: 0,
        inputs: Vec::new(),
        outputs: Vec::new(),
    }
}

fn traffic(offered: u64) -> Traffic {
    let seconds = vec![(0.05, offered)];
    Traffic {
        queue: queue(),
        offered,
        refused: 0,
        rows_per_request: 1.0,
        answered: offered,
        seconds,
    }
}

fn word() -> Announcement {
    let spec = ModelSpec {
        queue: queue(),
        platform: String::new(),
        backend: String::new(),
        max_batch: 64,
        inputs: Vec::new(),
        outputs: Vec::new(),
    };
    let curve = [1_u32, 8, 64].map(|rows| (rows, 8.0 + 2.0 * f64::from(rows))).to_vec();
    let batching = Batching {
        slo_ms: 100.0,
        curve,
        bound: "slo".into(),
        epoch: u64::MAX,
        ..Batching::default()
    };
    let announcement = Announcement::new(WorkerId(1), spec);
    let host = "digits-1".to_owned();
    Announcement { capacity: 400.0, batching: Some(batching), host, ..announcement }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_is_new_gets_its_objects_and_then_nothing_is_written() {
    let mut world = World::new(&json!({})).await;
    let written = world.tick(10).await.unwrap();
    assert_eq!(
        written,
        [
            "PATCH deployments/digits",
            "PATCH poddisruptionbudgets/digits",
            "PATCH horizontalpodautoscalers/digits",
            "PATCH modelfleets/digits/status",
        ]
    );
    world.ticks(8, 10).await;
    assert_eq!(world.tick(10).await.unwrap(), [""; 0]);
    assert_eq!((world.condition("Ready"), world.floor()), (json!("True"), json!(1)));
    let metrics = &world.context.metrics;
    assert_eq!(metrics.turns.with_label_values(&["ok"]).get(), 10);
    assert_eq!(metrics.wanted.with_label_values(&["ml", "digits"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_grows_raises_the_floor_and_never_the_deployment() {
    let mut world = World::new(&json!({})).await;
    world.ticks(8, 10).await;
    let mut written = Vec::new();
    for _ in 0..8 {
        written.extend(world.tick(1_500).await.unwrap());
    }
    assert_eq!(world.floor(), 4);
    assert!(written.contains(&"PATCH horizontalpodautoscalers/digits".to_owned()), "{written:?}");
    assert!(!written.iter().any(|write| write.contains("deployments")), "{written:?}");
    let status = &world.server.get("modelfleets/digits")["status"];
    assert_eq!(
        (&status["wantedReplicas"], &status["offeredRowsPerSecond"]),
        (&json!(4), &json!(1500.0))
    );
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_is_set_back() {
    let mut world = World::new(&json!({})).await;
    world.ticks(8, 10).await;
    world.server.edit("deployments/digits", |deployment| {
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("evil:1");
    });
    assert_eq!(world.turn().await.unwrap(), ["PATCH deployments/digits"]);
    let image = world.server.get("deployments/digits")["spec"]["template"]["spec"]["containers"][0]
        ["image"]
        .clone();
    assert_eq!(image, "worker:1");
}

#[tokio::test(start_paused = true)]
async fn gateways_that_fall_silent_lower_nothing() {
    let mut world = World::new(&json!({"scaling": {"max": 24, "holdSeconds": 0}})).await;
    world.ticks(8, 1_500).await;
    assert_eq!(world.floor(), 4);
    for _ in 0..100 {
        advance(TICK).await;
        world.turn().await.unwrap();
        assert_eq!(world.floor(), 4);
    }
    assert_eq!(world.condition("MetricsStale"), "True");
    let status = &world.server.get("modelfleets/digits")["status"];
    assert_eq!(status["offeredRowsPerSecond"], Value::Null);
    advance(TICK).await;
    assert_eq!(world.turn().await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_is_asked_again_later_each_time_and_nothing_is_lowered() {
    let mut world = World::new(&json!({})).await;
    world.ticks(8, 1_500).await;
    world.server.refuse("deployments", 503);
    let fleet: Arc<ModelFleet> =
        Arc::new(serde_json::from_value(world.server.get("modelfleets/digits")).unwrap());
    let mut pauses = Vec::new();
    for _ in 0..3 {
        let error = world.tick(10).await.unwrap_err();
        pauses.push(after(&fleet, &error, &world.context));
    }
    let seconds = [5, 10, 20].map(|seconds| Action::requeue(Duration::from_secs(seconds)));
    assert_eq!(pauses, seconds);
    assert_eq!(world.floor(), 4);
    world.server.refuse("deployments", 0);
    world.tick(1_500).await.unwrap();
    assert_eq!(
        after(&fleet, &ControlError::Broker(BrokerError::Full), &world.context),
        Action::requeue(TICK)
    );
}

#[tokio::test(start_paused = true)]
async fn a_write_that_conflicts_is_tried_again() {
    let mut world = World::new(&json!({})).await;
    world.server.refuse("horizontalpodautoscalers/digits", 409);
    assert!(world.tick(10).await.is_err());
    world.server.refuse("horizontalpodautoscalers/digits", 0);
    let written = world.tick(10).await.unwrap();
    assert!(written.contains(&"PATCH horizontalpodautoscalers/digits".to_owned()), "{written:?}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_writes_nothing_but_knows_the_load_when_it_does() {
    let mut world = World::new(&json!({})).await;
    world.leads.send_replace(false);
    for _ in 0..8 {
        assert_eq!(world.tick(1_500).await.unwrap(), [""; 0]);
    }
    world.leads.send_replace(true);
    world.tick(1_500).await.unwrap();
    assert_eq!(world.floor(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_is_being_deleted_is_left_alone() {
    let mut world = World::new(&json!({})).await;
    world.ticks(2, 10).await;
    world.server.edit("modelfleets/digits", |fleet| {
        fleet["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    assert_eq!(world.tick(10).await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn another_autoscaler_for_the_same_workers_stops_ours_and_is_named() {
    let mut world = World::new(&json!({})).await;
    let path = "/apis/autoscaling/v2/namespaces/ml/horizontalpodautoscalers/theirs";
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "digits"});
    world.server.add(
        path,
        json!({
            "metadata": {"name": "theirs", "namespace": "ml"},
            "spec": {"scaleTargetRef": target, "maxReplicas": 3},
        }),
    );
    assert_eq!(world.tick(10).await.unwrap(), ["PATCH modelfleets/digits/status"]);
    let why = world.why("ScalingConflict");
    assert!(why.contains("\"True\"") && why.contains("HorizontalPodAutoscaler theirs"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn kedas_scaler_of_the_same_workers_stops_ours_while_keda_is_installed() {
    let mut world = World::new(&json!({})).await;
    let target = json!({"name": "digits"});
    world.server.add(
        "/apis/keda.sh/v1alpha1/namespaces/ml/scaledobjects/theirs",
        json!({
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "theirs", "namespace": "ml"},
            "spec": {"scaleTargetRef": target},
        }),
    );
    world.ticks(2, 10).await;
    assert_eq!(world.condition("ScalingConflict"), "False");
    world.server.add("/apis/keda.sh/v1alpha1", served("keda.sh/v1alpha1", "scaledobjects"));
    world.ticks(13, 10).await;
    assert_eq!(world.floor(), 1);
    let why = world.why("ScalingConflict");
    assert!(why.contains("\"True\"") && why.contains("KEDA's ScaledObject theirs"), "{why}");
    // Who may not look cannot find it.
    world.server.refuse("scaledobjects", 403);
    world.tick(10).await.unwrap();
    assert_eq!(world.condition("ScalingConflict"), "False");
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_deployment_of_the_same_name_is_left_alone() {
    let mut world = World::new(&json!({})).await;
    let path = "/apis/apps/v1/namespaces/ml/deployments/digits";
    let theirs = json!({"metadata": {"name": "digits"}, "spec": {"replicas": 3}});
    world.server.add(path, theirs);
    for _ in 0..3 {
        assert!(!world.tick(10).await.unwrap().iter().any(|write| !write.contains("modelfleets")));
    }
    let why = world.why("Degraded");
    assert!(why.contains("Deployment of the fleet's name is not this fleet's"), "{why}");
    assert_eq!(world.condition("Ready"), "False");
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_budget_and_autoscaler_are_left_alone_and_the_rest_is_made() {
    let mut world = World::new(&json!({})).await;
    let theirs = json!({"metadata": {"name": "digits"}, "spec": {"scaleTargetRef": {
        "kind": "Deployment", "name": "other",
    }, "maxReplicas": 2}});
    let budget = "/apis/policy/v1/namespaces/ml/poddisruptionbudgets/digits";
    world.server.add(budget, json!({"metadata": {"name": "digits"}}));
    let autoscaler = "/apis/autoscaling/v2/namespaces/ml/horizontalpodautoscalers/digits";
    world.server.add(autoscaler, theirs.clone());
    let written = world.tick(10).await.unwrap();
    assert_eq!(written, ["PATCH deployments/digits", "PATCH modelfleets/digits/status"]);
    assert_eq!(world.server.get("horizontalpodautoscalers/digits"), theirs);
    assert_eq!(
        (world.condition("Degraded"), world.condition("ScalingConflict")),
        (json!("True"), json!("True"))
    );
}

#[tokio::test(start_paused = true)]
async fn workers_are_scraped_where_the_prometheus_operator_is() {
    let mut world = World::new(&json!({})).await;
    let api = "monitoring.coreos.com/v1";
    world.server.add(&format!("/apis/{api}"), served(api, "podmonitors"));
    let written = world.tick(10).await.unwrap();
    assert!(written.contains(&"PATCH podmonitors/digits".to_owned()), "{written:?}");
    world.ticks(8, 10).await;
    assert_eq!(world.tick(10).await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn in_direct_mode_the_controller_sets_the_number_and_its_autoscaler_goes() {
    let mut world = World::new(&json!({})).await;
    world.ticks(2, 10).await;
    world.server.edit("modelfleets/digits", |fleet| {
        fleet["spec"]["scaling"]["mode"] = json!("direct");
        fleet["metadata"]["generation"] = json!(2);
    });
    let written = world.tick(10).await.unwrap();
    assert!(written.contains(&"DELETE horizontalpodautoscalers/digits".to_owned()), "{written:?}");
    world.ticks(8, 1_500).await;
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 4);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_goes_to_zero_and_comes_back() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 60}});
    let mut world = World::new(&scaling).await;
    world.ticks(8, 10).await;
    world.ticks(80, 0).await;
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 0);
    world.tick(10).await.unwrap();
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_sleeps_lets_callers_wait_and_wakes_within_a_second() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 60}});
    let mut world = World::new(&scaling).await;
    world.ticks(8, 10).await;
    assert!(!world.is_promised().await);
    world.ticks(80, 0).await;
    world.worker.retire().await.unwrap();
    advance(TICK).await;
    world.turn().await.unwrap();
    assert!(world.is_promised().await);
    advance(BLINK).await;
    assert_eq!(world.turn().await.unwrap(), [""; 0]);
    world.gateway.submit(&queue(), &job()).await.unwrap();
    advance(BLINK).await;
    let written = world.turn().await.unwrap();
    assert!(written.contains(&"PATCH deployments/digits/scale".to_owned()), "{written:?}");
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 1);
    // Until the worker is there, as well.
    advance(TICK).await;
    world.turn().await.unwrap();
    assert!(world.is_promised().await);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_starts_anew_promises_what_the_last_one_did() {
    let scaling = json!({"scaling": {"min": 0, "scaleToZeroAfterSeconds": 60}});
    let mut world = World::new(&scaling).await;
    world.server.add(
        "/apis/apps/v1/namespaces/ml/deployments/digits",
        json!({"metadata": {"name": "digits", "ownerReferences": [{"uid": "1234"}]},
            "spec": {"replicas": 0}}),
    );
    world.context.controller.promise(&word()).await.unwrap();
    advance(batchfleet_broker::roles::PROMISED).await;
    assert!(!world.is_promised().await);
    world.turn().await.unwrap();
    assert!(world.is_promised().await);
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_pods_start_is_measured_and_a_busy_one_holds_its_node() {
    let mut world = World::new(&json!({})).await;
    let path = "/api/v1/namespaces/ml/pods/digits-1";
    let created = json!({
        "name": "digits-1", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    world.server.add(path, json!({"metadata": created}));
    world.tick(10).await.unwrap();
    world.server.edit("pods/digits-1", |pod| {
        let at = "2026-01-01T00:00:42Z";
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]);
        pod["status"] = json!({"conditions": ready});
    });
    world.gateway.submit(&queue(), &job()).await.unwrap();
    world.worker.claim(1).await.unwrap();
    let written = world.tick(10).await.unwrap();
    assert!(written.contains(&"PATCH pods/digits-1".to_owned()), "{written:?}");
    assert_eq!(world.server.get("modelfleets/digits")["status"]["coldStartSeconds"], 42);
    let annotations = world.server.get("pods/digits-1")["metadata"]["annotations"].clone();
    assert_eq!(annotations["karpenter.sh/do-not-disrupt"], "true");
    world.ticks(8, 10).await;
    assert_eq!(world.tick(10).await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn workers_are_told_the_target_once_and_again_when_it_changes() {
    let mut world = World::new(&json!({})).await;
    world.ticks(3, 10).await;
    let told = world.worker.guidance().await.unwrap().target.unwrap();
    assert_eq!((told.wish.batch, told.wish.slo_ms), (BatchWish::Auto, Some(100.0)));
    world.ticks(3, 10).await;
    assert_eq!(world.worker.guidance().await.unwrap().target, Some(told));
    world.server.edit("modelfleets/digits", |fleet| {
        fleet["spec"]["batch"] = json!({"mode": "fixed", "rows": 8});
        fleet["metadata"]["generation"] = json!(2);
    });
    world.tick(10).await.unwrap();
    let again = world.worker.guidance().await.unwrap().target.unwrap();
    assert!(again.epoch > told.epoch && again.wish.batch == BatchWish::Rows(8));
}

#[test]
fn pauses_grow_to_five_minutes() {
    assert_eq!([1, 2, 3, 7, 99].map(|failures| pause(failures).as_secs()), [5, 10, 20, 300, 300]);
}
