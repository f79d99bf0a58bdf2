//! `batchfleet redis-acl`: prints the Redis user of the workers of one model.

use std::{fs, path::PathBuf, process::ExitCode};

use batchfleet_broker::{QueueName, redis::acl};
use batchfleet_service::InvalidSettings;
use clap::Args;

use crate::tool::say;

/// Settings of `batchfleet redis-acl`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RedisAclSettings {
    /// The model whose workers get the user [default: any model]
    model: Option<String>,

    /// The name of the user [default: worker-MODEL, or worker]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// A file that contains only the password. Without it, no password is valid until one is added
    /// with `ACL SETUSER NAME >PASSWORD`
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// The user is for a Redis Cluster: each of its nodes needs the user
    #[arg(long)]
    cluster: bool,
}

/// Prints a line for the file of Redis' setting `aclfile`. After `ACL SETUSER`, the same words
/// create the user while Redis runs.
pub(crate) fn main(settings: &RedisAclSettings) -> anyhow::Result<ExitCode> {
    let RedisAclSettings { model, user, password_file, cluster } = settings;
    if let Some(model) = model
        && !QueueName::new(model.as_str(), 1).is_valid()
    {
        return Err(InvalidSettings::new(format_args!(
            "{model:?} is no name of a model: expected 1 to 128 characters of [A-Za-z0-9._-]"
        ))
        .into());
    }
    let default = || model.as_ref().map_or("worker".to_owned(), |model| format!("worker-{model}"));
    let user = user.clone().unwrap_or_else(default);
    let password = password_file.as_ref().map(hash).transpose()?.unwrap_or_default();
    let model = model.as_deref();
    let rules = if *cluster { acl::worker_in_cluster(model) } else { acl::worker(model) };
    say(&format!("user {user} reset on {password}{rules}\n"));
    Ok(ExitCode::SUCCESS)
}

/// The rule that makes the password in a file valid, and a space.
fn hash(file: &PathBuf) -> Result<String, InvalidSettings> {
    let password = fs::read_to_string(file).map_err(|error| {
        InvalidSettings::new(format_args!("--password-file {}: {error}", file.display()))
    })?;
    Ok(acl::password(password.trim()) + " ")
}
