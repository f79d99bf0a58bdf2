//! The rights that each kind of program needs in Redis, as rules of `ACL SETUSER`.
//!
//! The names of keys and channels separate the fleets as far as the design allows: a queue belongs
//! to one model version, and so do its dead letters, targets, large replies and announcements. What
//! all fleets share is separated by commands, by selectors and by random ids of 128 bits:
//!
//! - Reply channels belong to gateways. A worker may publish to all, because its answers go to every
//!   gateway, and subscribe to none. A reply that names no request of the gateway is dropped; ids of
//!   requests are random, and a worker sees those of its own queue only.
//! - Liveness keys belong to single workers. A worker may write all of them, but the ids in their
//!   names are random, and it cannot list them.
//! - Memory is shared: a worker can fill Redis through its own queue.

use sha2::{Digest, Sha256};

/// The commands that every program sends when it connects, and for pipelines.
const CONNECTION: &str = "-@all +hello +auth +ping +client|setname +info +role +time +multi +exec \
                          +discard +unwatch";

/// The commands of a worker on its own keys.
const WORKER: &str = "+xreadgroup +xack +xdel +xadd +xlen +xclaim +xpending +xrange \
                      +xgroup|create +xgroup|createconsumer +xinfo|consumers +xinfo|groups \
                      +xinfo|stream +get +getbit +mget +set +psetex +del +pexpire +hset \
                      +pubsub|numsub +subscribe +unsubscribe";

/// The further rights of a worker in a cluster.
const WORKER_IN_CLUSTER: &str =
    "%R~bf:{*}:{fleet}:partitions +cluster|slots +pubsub|shardnumsub +ssubscribe";

/// Returns the rules of a worker that serves only `model`; `None` for a worker of any model.
///
/// The caller must make sure that `model` is a [valid name](crate::QueueName::is_valid), which
/// contains no character with a meaning in patterns.
pub fn worker(model: Option<&str>) -> String {
    rules(model, "bf:", &format!("{CONNECTION} {WORKER}"), "+publish")
}

/// Like [`worker`], for every node of a Redis Cluster.
pub fn worker_in_cluster(model: Option<&str>) -> String {
    let commands = format!("{CONNECTION} {WORKER} {WORKER_IN_CLUSTER}");
    rules(model, "bf:{*}:", &commands, "+publish +spublish")
}

/// `begin` is the begin of all names, `commands` may be used for keys, and `publish` for replies.
fn rules(model: Option<&str>, begin: &str, commands: &str, publish: &str) -> String {
    let queue = model.map_or_else(|| "{*}".to_owned(), |model| format!("{{{model}:*}}"));
    let keys = [
        format!("%RW~{begin}{queue}:q:*"),
        format!("%W~{begin}{queue}:parcel:*"),
        format!("%RW~{begin}{queue}:dead"),
        format!("%R~{begin}{queue}:target"),
        format!("%RW~{begin}{queue}:turn"),
        format!("%RW~{begin}{queue}:roll"),
        format!("%RW~{begin}{queue}:workers"),
        format!("%W~{begin}{queue}:beats"),
        format!("%R~{begin}{{fleet}}:gateway:*"),
        format!("%RW~{begin}{{fleet}}:live:*"),
        format!("%R~{begin}{{fleet}}:epoch"),
    ];
    let fleet = format!("{begin}{{fleet}}");
    let mut selectors = vec![
        format!("({publish} &{begin}reply:*)"),
        format!("(+sadd ~{fleet}:queues)"),
        format!("(+incr ~{fleet}:changes)"),
    ];
    if model.is_none() {
        // Gateways of earlier versions read the announcements of all models from one key.
        selectors.push(format!("(+hset ~{fleet}:workers)"));
    }
    let (keys, selectors) = (keys.join(" "), selectors.join(" "));
    format!("resetchannels {keys} &{begin}{queue}:target {commands} {selectors}")
}

/// Returns the rule that makes a password valid: its SHA-256, so that rules contain no password.
pub fn password(password: &str) -> String {
    Sha256::digest(password).iter().fold("#".to_owned(), |rule, byte| format!("{rule}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_valid_by_its_hash() {
        let hash = "#2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        assert_eq!(password("secret"), hash);
    }

    #[test]
    fn the_rules_of_one_model_name_no_other_model() {
        for rules in [worker(Some("resnet")), worker_in_cluster(Some("resnet"))] {
            let of_keys = rules.split(' ').filter(|rule| rule.contains("bf:"));
            for rule in of_keys.filter(|rule| !rule.contains("reply:*")) {
                assert!(rule.contains("{fleet}:") || rule.contains("{resnet:*}:"), "{rule}");
            }
            assert!(!rules.contains("{fleet}:workers"));
        }
        assert!(worker_in_cluster(Some("a")).contains("%RW~bf:{*}:{a:*}:q:*"));
        assert!(worker(None).contains("%RW~bf:{*}:q:*"));
    }
}
