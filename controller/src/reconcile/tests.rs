//! Tests of turns against a fake API server and an in-memory broker.

mod by_hand;
mod copies;
mod failures;
mod others;
mod reasons;
mod rollout;
mod same_model;
mod users;
mod writes;
mod zero;

use batchfleet_broker::{
    Announcement, BatchWish, Broker, GatewayId, GatewayRoles, Job, Observer, Priority, QueueName,
    RequestId, Traffic, WorkerId, WorkerRoles, memory::MemoryBroker,
};
use futures_util::future::BoxFuture;
use kube::{Client, runtime::events::Reporter};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, advance, sleep},
};

use super::*;
use crate::{
    cluster::Cluster,
    decide::TICK,
    fake::FakeApi,
    late_broker::LateBroker,
    metrics::ControllerMetrics,
    model_users::ModelUsers,
    objects::{WorkerDefaults, WorkerRedis},
    sample,
    snapshot::Snapshots,
};

const FLEETS: &str = "/apis/batchfleet.dev/v1alpha1/namespaces/ml/modelfleets/digits";

/// A simulated cluster with one gateway and a fleet of one worker, with L(b) = 8 + 2 b
/// milliseconds.
struct World {
    server: FakeApi,
    context: Arc<Context>,
    leads: watch::Sender<bool>,
    gateway: GatewayRoles,
    worker: WorkerRoles,
    /// A worker of the next version, which gets no requests, and its announcement.
    newer: Option<(WorkerRoles, Announcement)>,
    /// The watch tasks, until the first turn starts them.
    watches: Option<BoxFuture<'static, ()>>,
    broker: MemoryBroker,
    /// The controller's connection to the broker.
    redis: Arc<LateBroker>,
    offered: u64,
    /// Whether the autoscaler removes workers, which it does only while it reads its metric.
    autoscaler_shrinks: bool,
}

impl World {
    async fn new(changes: &Value) -> Self {
        let world = Self::unconnected(changes).await;
        world.redis.connected(&world.broker).await.unwrap();
        world
    }

    /// A cluster whose controller has not reached Redis yet.
    async fn unconnected(changes: &Value) -> Self {
        Self::with_users(changes, |_| None).await
    }

    /// The same with a keeper of Redis users.
    async fn with_users(
        changes: &Value,
        users: impl FnOnce(&Client) -> Option<ModelUsers>,
    ) -> Self {
        let server = FakeApi::default();
        server.add(FLEETS, fleet(changes));
        let broker = MemoryBroker::new(1_000);
        let (leading, leads) = watch::channel(true);
        let redis = WorkerRedis::Url("redis://redis:6379/0".to_owned());
        let (cluster, watches) = Cluster::new(&server.client(), "ml");
        let late = Arc::new(LateBroker::new());
        let observer: Arc<dyn Observer> = late.clone();
        let context = Arc::new(Context {
            cluster,
            snapshots: Arc::new(Snapshots::new(observer.clone())),
            observer,
            controller: late.clone(),
            defaults: WorkerDefaults {
                image: "worker:1".to_owned(),
                redis,
                redis_tls: None,
                redises: None,
                workers_per_shard: None,
                user: Some(65_532),
                trace_endpoint: None,
                monitor_labels: std::collections::BTreeMap::new(),
                monitor_interval: None,
            },
            users: users(&server.client()).map(Arc::new),
            events: EventSink { client: server.client(), reporter: Reporter::from("test") },
            metrics: ControllerMetrics::registered(&prometheus::Registry::new()).unwrap(),
            leads,
            started: Instant::now(),
            fleets: FleetStates::default(),
        });
        Self {
            server,
            context,
            leads: leading,
            gateway: broker.gateway(GatewayId(1)).await.unwrap(),
            worker: broker.worker(queue(), WorkerId(1)).await.unwrap(),
            newer: None,
            watches: Some(watches),
            broker,
            redis: late,
            offered: 0,
            autoscaler_shrinks: true,
        }
    }

    /// Advances by one tick with `rate` requests per second and runs a turn. Returns the writes.
    async fn tick(&mut self, rate: u64) -> Result<Vec<String>, ControlError> {
        advance(TICK).await;
        self.offered += rate * u64::try_from(TICK.as_millis()).unwrap() / 1_000;
        let mut reports = vec![traffic(self.offered)];
        self.worker.consumer.renew(&announcement()).await.unwrap();
        if let Some((worker, announcement)) = &self.newer {
            worker.consumer.renew(announcement).await.unwrap();
            reports.push(Traffic { queue: announcement.model.queue.clone(), ..traffic(0) });
        }
        self.gateway.producer.report(&reports).await.unwrap();
        self.turn().await
    }

    async fn turn(&mut self) -> Result<Vec<String>, ControlError> {
        self.start_watches();
        self.deliver_events().await;
        reconcile(self.fleet(), self.context.clone()).await?;
        // Act as the autoscaler and the Deployment controller.
        let floor =
            self.server.get("horizontalpodautoscalers/digits")["spec"]["minReplicas"].clone();
        if !self.server.get("deployments/digits").is_null() {
            self.server.edit("deployments/digits", |deployment| {
                let asleep = deployment["spec"]["replicas"] == 0;
                let grows = floor.as_i64() > deployment["spec"]["replicas"].as_i64();
                if floor.is_number() && !asleep && (grows || self.autoscaler_shrinks) {
                    deployment["spec"]["replicas"] = floor;
                }
                let replicas = deployment["spec"]["replicas"].clone();
                deployment["status"] = json!({"readyReplicas": replicas});
            });
        }
        Ok(self.server.writes())
    }

    fn fleet(&self) -> Arc<ModelFleet> {
        Arc::new(serde_json::from_value(self.server.get("modelfleets/digits")).unwrap())
    }

    fn start_watches(&mut self) {
        if let Some(watches) = self.watches.take() {
            tokio::spawn(watches);
        }
    }

    /// Waits until the watches have delivered all events. With the clock paused, a sleep ends only
    /// when every task is idle.
    async fn deliver_events(&self) {
        sleep(Duration::from_millis(1)).await;
    }

    /// Runs turns for some seconds with `rate` requests per second.
    async fn lasts(&mut self, seconds: u64, rate: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            self.tick(rate).await.unwrap();
        }
    }

    fn floor(&self) -> Value {
        self.server.get("horizontalpodautoscalers/digits")["spec"]["minReplicas"].clone()
    }

    /// Returns whether gateways may let requests wait for a worker.
    async fn is_promised(&self) -> bool {
        let fleet = self.context.observer.fleet().await.unwrap();
        fleet.promises.iter().any(|promise| promise.holds)
    }

    /// Returns status and message of a condition.
    fn why(&self, name: &str) -> String {
        let fleet = self.server.get("modelfleets/digits");
        let conditions = fleet["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == name).unwrap();
        format!("{}: {}", found["status"], found["message"])
    }

    /// Returns the field of the status.
    fn status(&self, field: &str) -> Value {
        self.server.get("modelfleets/digits")["status"][field].clone()
    }

    /// Changes the spec of the fleet, as a user would.
    fn edit_spec(&self, edit: impl FnOnce(&mut Value)) {
        self.server.edit("modelfleets/digits", |fleet| {
            edit(&mut fleet["spec"]);
            let generation = fleet["metadata"]["generation"].as_i64().unwrap();
            fleet["metadata"]["generation"] = json!(generation + 1);
        });
    }

    /// Returns the events with this reason.
    fn events(&self, reason: &str) -> Vec<String> {
        let begin = format!("{reason}: ");
        self.server.events().into_iter().filter(|event| event.starts_with(&begin)).collect()
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

/// Returns the discovery document of an installed API.
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
        trace: None,
        classes: Vec::new(),
        offer: None,
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

/// Returns the announcement of a worker of a version.
fn announcement_of(version: u64) -> Announcement {
    let mut announcement = sample::measured(version.into(), QueueName::new("m", version), 1.0);
    announcement.host = "digits-1".to_owned();
    announcement.batching.as_mut().unwrap().epoch = u64::MAX;
    announcement
}

fn announcement() -> Announcement {
    announcement_of(1)
}

/// Returns a newly created pod of the fleet.
fn pod() -> Value {
    json!({"metadata": {
        "name": "digits-1", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"batchfleet.dev/fleet": "digits"},
    }})
}

#[tokio::test(start_paused = true)]
async fn a_new_fleet_gets_its_objects_and_then_nothing_is_written() {
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
    world.lasts(40, 10).await;
    assert_eq!(world.tick(10).await.unwrap(), [""; 0]);
    assert_eq!((world.condition("Ready"), world.floor()), (json!("True"), json!(1)));
    let metrics = &world.context.metrics;
    assert_eq!(metrics.turns.with_label_values(&["ok"]).get(), 18);
    assert_eq!(metrics.wanted.with_label_values(&["ml", "digits"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_growing_load_raises_the_floor_and_never_the_deployment() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
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
async fn a_change_by_another_client_is_set_back() {
    let mut world = World::new(&json!({})).await;
    world.lasts(40, 10).await;
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
async fn a_fleet_that_is_being_deleted_is_left_alone() {
    let mut world = World::new(&json!({})).await;
    world.lasts(10, 10).await;
    world.server.edit("modelfleets/digits", |fleet| {
        fleet["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    assert_eq!(world.tick(10).await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn workers_are_scraped_where_the_prometheus_operator_is_installed() {
    let mut world = World::new(&json!({})).await;
    let api = "monitoring.coreos.com/v1";
    world.server.add(&format!("/apis/{api}"), served(api, "podmonitors"));
    let written = world.tick(10).await.unwrap();
    assert!(written.contains(&"PATCH podmonitors/digits".to_owned()), "{written:?}");
    world.lasts(40, 10).await;
    assert_eq!(world.tick(10).await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn in_direct_mode_the_controller_sets_the_replicas_and_deletes_its_autoscaler() {
    let mut world = World::new(&json!({})).await;
    world.lasts(10, 10).await;
    world.server.edit("modelfleets/digits", |fleet| {
        fleet["spec"]["scaling"]["mode"] = json!("direct");
        fleet["metadata"]["generation"] = json!(2);
    });
    let written = world.tick(10).await.unwrap();
    assert!(written.contains(&"DELETE horizontalpodautoscalers/digits".to_owned()), "{written:?}");
    world.lasts(40, 1_500).await;
    assert_eq!(world.server.get("deployments/digits")["spec"]["replicas"], 4);
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_is_measured_and_a_busy_pod_keeps_its_node() {
    let mut world = World::new(&json!({})).await;
    let path = "/api/v1/namespaces/ml/pods/digits-1";
    world.server.add(path, pod());
    world.tick(10).await.unwrap();
    world.server.edit("pods/digits-1", |pod| {
        let at = "2026-01-01T00:00:42Z";
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]);
        pod["status"] = json!({"conditions": ready});
    });
    world.gateway.producer.submit(&queue(), &job()).await.unwrap();
    world.worker.claims.claim(1).await.unwrap();
    let written = world.tick(10).await.unwrap();
    assert!(written.contains(&"PATCH pods/digits-1".to_owned()), "{written:?}");
    assert_eq!(world.server.get("modelfleets/digits")["status"]["coldStartSeconds"], 42);
    let annotations = world.server.get("pods/digits-1")["metadata"]["annotations"].clone();
    assert_eq!(annotations["karpenter.sh/do-not-disrupt"], "true");
    world.lasts(40, 10).await;
    assert_eq!(world.tick(10).await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_target_is_published_once_and_again_when_it_changes() {
    let mut world = World::new(&json!({})).await;
    world.lasts(15, 10).await;
    let published = world.worker.target.guidance().await.unwrap().target.unwrap();
    assert_eq!((published.wish.batch, published.wish.slo_ms), (BatchWish::Auto, Some(100.0)));
    world.lasts(15, 10).await;
    assert_eq!(world.worker.target.guidance().await.unwrap().target, Some(published));
    world.server.edit("modelfleets/digits", |fleet| {
        fleet["spec"]["batch"] = json!({"mode": "fixed", "rows": 8});
        fleet["metadata"]["generation"] = json!(2);
    });
    world.tick(10).await.unwrap();
    let changed = world.worker.target.guidance().await.unwrap().target.unwrap();
    assert!(changed.epoch > published.epoch && changed.wish.batch == BatchWish::Rows(8));
}
