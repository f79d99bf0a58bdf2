//! Settings of the controller, as flags and environment variables.

use batchfleet_service::{InvalidSettings, ProcessSettings};
use clap::{Parser, Subcommand};

use crate::objects::{RedisAddress, WorkerDefaults};

/// Settings of the controller process.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "batchfleet-controller",
    version,
    about = "Keeps each ModelFleet as large as its load needs, and tells its workers how to batch"
)]
pub struct ControllerSettings {
    /// What to do instead of controlling.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The Redis with the queues, such as `redis://user:password@host:6379/0`
    #[arg(
        long,
        env = "BATCHFLEET_REDIS_URL",
        default_value = "redis://127.0.0.1:6379/0",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub redis_url: String,

    /// The image of workers whose fleet names none
    #[arg(
        long,
        env = "BATCHFLEET_WORKER_IMAGE",
        default_value = "batchfleet-worker",
        value_name = "IMAGE"
    )]
    pub worker_image: String,

    /// The secret under whose key `url` workers find Redis [default: what --redis-url says]
    #[arg(long, env = "BATCHFLEET_WORKER_REDIS_SECRET", value_name = "NAME")]
    pub worker_redis_secret: Option<String>,

    /// The namespace whose fleets are controlled [default: the one this runs in]
    #[arg(long, env = "BATCHFLEET_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,

    /// What this process is called among the controllers of which one leads
    #[arg(long, env = "HOSTNAME", default_value = "controller", value_name = "NAME")]
    pub identity: String,

    /// The process.
    #[command(flatten)]
    pub process: ProcessSettings,
}

/// What the controller can do beside controlling.
#[derive(Subcommand, Clone, Copy, Debug)]
pub enum Command {
    /// Print the custom resource definition of `ModelFleet`
    Crd,
}

impl ControllerSettings {
    /// What all workers have in common.
    ///
    /// # Errors
    /// If a password would stand in every worker's pod.
    pub fn workers(&self) -> Result<WorkerDefaults, InvalidSettings> {
        let redis = match &self.worker_redis_secret {
            Some(secret) => RedisAddress::Secret(secret.clone()),
            None if self.redis_url.contains('@') => {
                return Err(InvalidSettings::new(
                    "--redis-url has a password, which everybody who sees a pod would see: name \
                     the secret that workers take it from with --worker-redis-secret",
                ));
            }
            None => RedisAddress::Url(self.redis_url.clone()),
        };
        Ok(WorkerDefaults { image: self.worker_image.clone(), redis })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(flags: &[&str]) -> Result<WorkerDefaults, InvalidSettings> {
        let flags = ["batchfleet-controller"].iter().chain(flags);
        ControllerSettings::try_parse_from(flags).unwrap().workers()
    }

    #[test]
    fn workers_find_redis_where_the_controller_does() {
        let address = workers(&["--redis-url", "redis://redis:6379/1"]).unwrap().redis;
        assert!(matches!(address, RedisAddress::Url(url) if url == "redis://redis:6379/1"));
    }

    #[test]
    fn a_password_is_never_written_into_a_pod() {
        let url = ["--redis-url", "redis://worker:secret@redis:6379/0"];
        let refused = workers(&url).unwrap_err().to_string();
        assert!(refused.contains("--worker-redis-secret") && !refused.contains("worker:secret"));
        let named = [url.as_slice(), &["--worker-redis-secret", "redis"]].concat();
        let address = workers(&named).unwrap().redis;
        assert!(matches!(address, RedisAddress::Secret(name) if name == "redis"));
    }
}
