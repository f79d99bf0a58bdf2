//! One Redis user for each model, whose rights cover the queues of this model only.
//!
//! All passwords are in one secret, because a role can name one secret, but not the secrets of fleets
//! that do not exist yet. Each pod mounts only the URL of its model. The secret also holds the users
//! as lines of an ACL file, which the chart's Redis reads when it starts, so that workers can connect
//! to a restarted Redis without a controller.

mod plan;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use batchfleet_broker::{
    BrokerError,
    redis::{RedisAddress, RedisUsers},
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use self::plan::{Plan, plan};
use crate::{
    certificates::secret,
    cluster::Cluster,
    error::ControlError,
    objects::{WorkerRedis, mounts_secret},
    reconcile::Context,
};

/// Interval at which the users are written to Redis again, which may have lost them in a restart or
/// failover.
const PERIOD: Duration = Duration::from_secs(5);
/// Interval at which new models are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// Keeps the users of all models of a namespace.
pub(crate) struct ModelUsers {
    secrets: Api<Secret>,
    /// Name of the secret.
    name: String,
    namespace: String,
    /// The address of the controller, whose hosts workers use.
    address: RedisAddress,
    redis: RedisUsers,
    /// The models whose users exist, in the secret and in Redis.
    ready: Mutex<BTreeSet<String>>,
}

/// Why the users could not be brought up to date.
#[derive(Debug, Error)]
pub(crate) enum UsersError {
    /// The API server refused a request or could not be reached.
    #[error("the API server: {0}")]
    Kubernetes(#[from] kube::Error),
    /// Redis refused a request or could not be reached.
    #[error(transparent)]
    Redis(#[from] BrokerError),
    /// Fleets or pods are not known.
    #[error(transparent)]
    Cluster(#[from] ControlError),
}

impl ModelUsers {
    /// Keeps the passwords in the secret `name`. `address` is that of the programs, `admin` that of
    /// a user who may change users.
    pub(crate) fn new(
        client: &Client,
        namespace: &str,
        name: &str,
        address: RedisAddress,
        admin: RedisAddress,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            address,
            redis: RedisUsers::new(admin),
            ready: Mutex::default(),
        }
    }

    /// Returns where the workers of a model find their URL, or `None` for the secret that all
    /// workers share.
    ///
    /// Workers that run with the shared user keep it until the user of the model exists, so that a
    /// Redis which refuses to create users stops no worker. A Deployment that uses the user of a
    /// model keeps it, because every change replaces all workers.
    pub(crate) fn redis_of(
        &self,
        model: &str,
        deployment: Option<&Deployment>,
    ) -> Option<WorkerRedis> {
        let is_own = |running: &Deployment| mounts_secret(running, &self.name);
        if deployment.is_none_or(is_own) || self.ready.lock().contains(model) {
            return Some(WorkerRedis::Secret { name: self.name.clone(), key: plan::key(model) });
        }
        None
    }

    /// Keeps the users while this controller leads, until the future is dropped.
    pub(crate) async fn run(&self, context: Arc<Context>) {
        let mut last: Option<(BTreeSet<String>, Instant)> = None;
        loop {
            if *context.leads.borrow() {
                let stepped = self.step(&mut last, &context.cluster).await;
                if let Err(error) = stepped {
                    warn!(%error, "failed to update the Redis users of models");
                    sleep(PERIOD).await;
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Brings the secret and Redis up to date for the models of fleets, and for those of pods that
    /// still run. Does nothing if that was done for the same fleets less than [`PERIOD`] ago.
    async fn step(
        &self,
        last: &mut Option<(BTreeSet<String>, Instant)>,
        cluster: &Cluster,
    ) -> Result<(), UsersError> {
        let served = cluster.models().await?;
        if last.as_ref().is_some_and(|(models, at)| *models == served && at.elapsed() < PERIOD) {
            return Ok(());
        }
        let keys = cluster.mounted_keys(&self.name).await?;
        let running = keys.iter().filter_map(|key| plan::model(key)).map(str::to_owned);
        self.update(&served.iter().cloned().chain(running).collect()).await?;
        *last = Some((served, Instant::now()));
        Ok(())
    }

    async fn update(&self, models: &BTreeSet<String>) -> Result<(), UsersError> {
        let existing = self.secrets.get_opt(&self.name).await?;
        let data = existing.as_ref().and_then(|secret| secret.data.as_ref());
        let plan = plan(&self.namespace, models, data, |user, password| {
            self.address.url_of(user, password)
        })?;
        self.write(existing, &plan).await?;
        let is_gone = |user: &str| plan.is_gone(&self.namespace, user);
        self.redis.update(plan.rules(), is_gone).await?;
        self.ready.lock().clone_from(models);
        Ok(())
    }

    /// Writes the secret if it differs. A write of another controller since `existing` was read makes
    /// this one fail.
    async fn write(&self, existing: Option<Secret>, plan: &Plan) -> kube::Result<()> {
        let data = plan.data();
        let params = PostParams::default();
        match existing {
            Some(existing) if existing.data.as_ref() == Some(&data) => return Ok(()),
            Some(existing) => {
                let changed = Secret { data: Some(data), ..existing };
                self.secrets.replace(&self.name, &params, &changed).await?;
            }
            None => {
                let made = Secret { data: Some(data), ..secret(&self.name, "Opaque", &[]) };
                self.secrets.create(&params, &made).await?;
            }
        }
        info!(secret = self.name, users = plan.len(), "Redis users of models changed");
        Ok(())
    }
}
