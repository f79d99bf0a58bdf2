//! The users of Redis, as the controller keeps them: one for each model.

use redis::Pipeline;

use super::{
    address::RedisAddress,
    connect::{PATIENCE, connection_config},
    errors::broker_error,
    locator::open_once,
};
use crate::BrokerError;

/// Creates, changes and deletes users of Redis.
///
/// Opens a connection for each call: calls are rare, and after a failover the users of the new
/// master count, because Redis does not replicate users.
#[derive(Clone)]
pub struct RedisUsers(RedisAddress);

impl RedisUsers {
    /// Uses the user in the URL of `address`, who must have the right to `ACL SETUSER`,
    /// `ACL DELUSER` and `ACL USERS`.
    #[must_use]
    pub const fn new(address: RedisAddress) -> Self {
        Self(address)
    }

    /// Creates or changes the users `set`, each a name and its rules, and deletes the existing users
    /// for whom `is_gone` holds.
    ///
    /// # Errors
    /// If Redis cannot be reached, or refuses a user. A part of the users may have been changed.
    pub async fn update<'a>(
        &self,
        set: impl Iterator<Item = (&'a str, &'a str)> + Send,
        is_gone: impl Fn(&str) -> bool + Send,
    ) -> Result<(), BrokerError> {
        let mut connection = open_once(&self.0, &connection_config()).await?;
        connection.set_response_timeout(PATIENCE * 5);
        let existing: Vec<String> = redis::cmd("ACL")
            .arg("USERS")
            .query_async(&mut connection)
            .await
            .map_err(broker_error)?;
        let mut update = Pipeline::new();
        for (name, rules) in set {
            update.cmd("ACL").arg("SETUSER").arg(name).arg(rules.split(' ').collect::<Vec<_>>());
        }
        for name in existing.iter().filter(|name| is_gone(name)) {
            update.cmd("ACL").arg("DELUSER").arg(name);
        }
        if update.is_empty() {
            return Ok(());
        }
        update.exec_async(&mut connection).await.map_err(broker_error)
    }
}
