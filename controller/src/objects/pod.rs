//! The pod of a worker. It conforms to the restricted pod security standard and has no access to
//! the API server.

mod engine_cache;
mod model;
mod parts;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{
            Container, ContainerPort, EmptyDirVolumeSource, HTTPGetAction, LocalObjectReference,
            PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
            SeccompProfile, TopologySpreadConstraint, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use kube::api::ObjectMeta;

use self::parts::{mount, quantities, secret_files, security, some};
use super::{
    defaults::{RedisTls, WorkerDefaults, WorkerRedis},
    identity::{labels, selector},
};
use crate::crd::{Batch, BatchMode, ModelFleet};

const SCRATCH: &str = "scratch";
const REDIS: &str = "redis";
const REDIS_PATH: &str = "/etc/batchfleet/redis";
const REDIS_TLS: &str = "redis-tls";
const REDIS_TLS_PATH: &str = "/etc/batchfleet/redis-tls";
/// Annotation with the number of Redises.
const REDISES: &str = "batchfleet.dev/redises";
/// Name of the port that serves metrics and health.
pub(super) const ADMIN: &str = "admin";
const ADMIN_PORT: i32 = 9090;
/// The end of a failed container's log becomes its termination message, which `problem` reads.
const LAST_WORDS: &str = "FallbackToLogsOnError";
/// Seconds by which the grace period of a pod exceeds the drain timeout of the worker.
const SPARE_SECONDS: u32 = 5;

pub(super) fn template(fleet: &ModelFleet, defaults: &WorkerDefaults) -> PodTemplateSpec {
    let overrides = &fleet.spec.pod;
    let mut all = overrides.labels.clone();
    all.extend(labels(fleet));
    let mut annotations = overrides.annotations.clone();
    annotations.extend(defaults.redises.map(|redises| (REDISES.to_owned(), redises.to_string())));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(all),
            annotations: some(annotations, BTreeMap::is_empty),
            ..ObjectMeta::default()
        }),
        spec: Some(pod(fleet, defaults)),
    }
}

fn pod(fleet: &ModelFleet, defaults: &WorkerDefaults) -> PodSpec {
    let overrides = &fleet.spec.pod;
    let secret = |name: &String| LocalObjectReference { name: name.clone() };
    PodSpec {
        containers: vec![worker(fleet, defaults)],
        init_containers: model::filler(fleet).map(|filler| vec![filler]),
        volumes: Some(volumes(fleet, defaults)),
        // No preStop hook: no Service routes requests to a worker, so it can stop claiming at
        // SIGTERM.
        termination_grace_period_seconds: Some(i64::from(drain(&fleet.spec.batch) + SPARE_SECONDS)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: overrides.service_account_name.clone(),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: defaults.user,
            run_as_group: defaults.user,
            fs_group: defaults.user,
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        node_selector: some(overrides.node_selector.clone(), BTreeMap::is_empty),
        tolerations: some(overrides.tolerations.clone(), Vec::is_empty),
        runtime_class_name: overrides.runtime_class_name.clone(),
        priority_class_name: overrides.priority_class_name.clone(),
        image_pull_secrets: some(
            overrides.image_pull_secrets.iter().map(secret).collect(),
            Vec::is_empty,
        ),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(selector(fleet)),
            ..TopologySpreadConstraint::default()
        }]),
        ..PodSpec::default()
    }
}

fn worker(fleet: &ModelFleet, defaults: &WorkerDefaults) -> Container {
    let worker = &fleet.spec.worker;
    Container {
        name: "worker".to_owned(),
        image: Some(worker.image.clone().unwrap_or_else(|| defaults.image.clone())),
        args: Some(settings(fleet, defaults)),
        ports: Some(vec![ContainerPort {
            name: Some(ADMIN.to_owned()),
            container_port: ADMIN_PORT,
            ..ContainerPort::default()
        }]),
        // No start-up probe: the admin port opens before the worker loads its model.
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        resources: Some(resources(fleet)),
        security_context: Some(security()),
        termination_message_policy: Some(LAST_WORDS.to_owned()),
        volume_mounts: Some(mounts(fleet, defaults)),
        ..Container::default()
    }
}

/// Returns the worker flags that follow from the spec of the fleet.
fn settings(fleet: &ModelFleet, defaults: &WorkerDefaults) -> Vec<String> {
    let batch = &fleet.spec.batch;
    let rows = match (batch.mode, batch.rows) {
        (BatchMode::Fixed, Some(rows)) => rows.to_string(),
        _ => "auto".to_owned(),
    };
    let mut settings = vec![
        match &defaults.redis {
            WorkerRedis::Url(url) => format!("--redis-url={url}"),
            WorkerRedis::Secret { .. } => format!("--redis-url-file={REDIS_PATH}/url"),
        },
        format!("--execution-provider={}", fleet.spec.worker.execution_provider.name()),
        format!("--slo-p99={}ms", fleet.spec.slo.p99_ms),
        format!("--batch={rows}"),
        format!("--max-batch={}", batch.max),
        format!("--max-batch-time={}s", batch.max_seconds),
        format!("--linger={}ms", batch.linger_ms),
        format!("--drain-timeout={}s", drain(batch)),
        format!("--admin-listen=[::]:{ADMIN_PORT}"),
    ];
    let tls = defaults.redis_tls.iter().flat_map(RedisTls::files);
    settings.extend(tls.map(|(flag, file)| format!("--{flag}={REDIS_TLS_PATH}/{file}")));
    let per_shard = defaults.workers_per_shard.iter();
    settings.extend(per_shard.map(|workers| format!("--workers-per-shard={workers}")));
    settings.extend(model::settings(fleet));
    settings.extend(engine_cache::setting(fleet));
    settings.extend(defaults.trace_endpoint.iter().map(|url| format!("--trace-endpoint={url}")));
    let gpus = fleet.spec.worker.gpu.as_ref().map_or(1, |gpu| gpu.count);
    if gpus > 1 {
        // The container sees its GPUs under the numbers from 0 on.
        let numbers: Vec<String> = (0..gpus).map(|number| number.to_string()).collect();
        settings.push(format!("--device={}", numbers.join(",")));
    }
    let sizes = |sizes: &[u32]| sizes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let lists = [
        ("batch-sizes", sizes(&batch.sizes)),
        ("pad", batch.pad.join(",")),
        ("pad-sizes", sizes(&batch.pad_sizes)),
        ("cut", batch.cut.join(",")),
    ];
    let given = lists.into_iter().filter(|(_, list)| !list.is_empty());
    settings.extend(given.map(|(flag, list)| format!("--{flag}={list}")));
    settings
}

/// Returns the seconds that a worker needs to finish the running batch and the next one, and to
/// hand back its other jobs. Computed from the spec and not from measured batch times, because
/// every change of a flag restarts all workers.
const fn drain(batch: &Batch) -> u32 {
    3 * batch.max_seconds + 5
}

fn volumes(fleet: &ModelFleet, defaults: &WorkerDefaults) -> Vec<Volume> {
    let mut volumes = vec![
        model::volume(&fleet.spec.model.source),
        Volume {
            name: SCRATCH.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        },
    ];
    volumes.extend(model::options_volume(fleet));
    volumes.extend(engine_cache::volume(fleet));
    if let WorkerRedis::Secret { name, key } = &defaults.redis {
        volumes.push(secret_files(REDIS, name, [(key.as_str(), "url")]));
    }
    if let Some(tls) = &defaults.redis_tls {
        let files = tls.files().map(|(_, key)| (key, key));
        volumes.push(secret_files(REDIS_TLS, &tls.secret, files));
    }
    volumes
}

fn mounts(fleet: &ModelFleet, defaults: &WorkerDefaults) -> Vec<VolumeMount> {
    let mut mounts = vec![model::mount(fleet), mount(SCRATCH, "/tmp", None)];
    mounts.extend(model::options_mount(fleet));
    mounts.extend(engine_cache::mount(fleet));
    if matches!(defaults.redis, WorkerRedis::Secret { .. }) {
        mounts.push(mount(REDIS, REDIS_PATH, Some(true)));
    }
    if defaults.redis_tls.is_some() {
        mounts.push(mount(REDIS_TLS, REDIS_TLS_PATH, Some(true)));
    }
    mounts
}

/// Returns the keys of a secret that a pod mounts.
pub(crate) fn mounted_keys(pod: &PodSpec, secret: &str) -> Vec<String> {
    let volumes = pod.volumes.iter().flatten().filter_map(|volume| volume.secret.as_ref());
    let mounted = volumes.filter(|source| source.secret_name.as_deref() == Some(secret));
    mounted.flat_map(|source| source.items.iter().flatten()).map(|item| item.key.clone()).collect()
}

/// Whether the pods of a Deployment mount keys of a secret.
pub(crate) fn mounts_secret(deployment: &Deployment, secret: &str) -> bool {
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    pod.is_some_and(|pod| !mounted_keys(pod, secret).is_empty())
}

fn resources(fleet: &ModelFleet) -> ResourceRequirements {
    let worker = &fleet.spec.worker;
    let mut limits = quantities(&worker.limits);
    if let Some(gpu) = &worker.gpu {
        limits.insert(gpu.resource.clone(), Quantity(gpu.count.to_string()));
    }
    ResourceRequirements {
        requests: some(quantities(&worker.requests), BTreeMap::is_empty),
        limits: some(limits, BTreeMap::is_empty),
        ..ResourceRequirements::default()
    }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(ADMIN.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}
