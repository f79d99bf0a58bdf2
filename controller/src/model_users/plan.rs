//! Which users exist, with which passwords and rights. Pure apart from new passwords.

use std::collections::{BTreeMap, BTreeSet};

use batchfleet_broker::{BrokerError, QueueName, redis::acl};
use k8s_openapi::ByteString;

/// Key of the lines of an ACL file.
pub(super) const FILE: &str = "users.acl";
/// Start of the keys of URLs. No such key is [`FILE`].
const URL: &str = "url.";

/// The desired users, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan(BTreeMap<String, User>);

#[derive(Debug, PartialEq, Eq)]
struct User {
    /// Key of the URL.
    key: String,
    url: String,
    rules: String,
}

/// Returns the key of a model's URL in the secret.
pub(super) fn key(model: &str) -> String {
    format!("{URL}{model}")
}

/// Returns the model of a key.
pub(super) fn model(key: &str) -> Option<&str> {
    key.strip_prefix(URL)
}

/// Returns the users of these models. A password in the secret is kept. Where it is missing, the
/// model gets a new one, and the previous one stays valid, because pods see the change of a secret
/// only after a minute or two.
pub(super) fn plan(
    namespace: &str,
    models: &BTreeSet<String>,
    existing: Option<&BTreeMap<String, ByteString>>,
    url_of: impl Fn(&str, &str) -> Result<String, BrokerError>,
) -> Result<Plan, BrokerError> {
    let text = |key: &str| {
        let bytes = existing.and_then(|data| data.get(key));
        bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
    };
    let mut users = BTreeMap::new();
    for model in models.iter().filter(|model| QueueName::new(model.as_str(), 1).is_valid()) {
        let (name, key) = (format!("{}{model}", prefix(namespace)), key(model));
        let kept = password(text(&key), &name).map(str::to_owned);
        let password = kept.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        let hash = acl::password(&password);
        let earlier = hashes(text(FILE), &name).find(|earlier| *earlier != hash);
        let earlier = earlier.map(|hash| format!("{hash} ")).unwrap_or_default();
        let rules = format!("reset on {hash} {earlier}{}", acl::worker(Some(model)));
        let url = url_of(&name, &password)?;
        users.insert(name, User { key, url, rules });
    }
    Ok(Plan(users))
}

impl Plan {
    /// Returns the data of the secret.
    pub(super) fn data(&self) -> BTreeMap<String, ByteString> {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let mut file = String::new();
        for (name, User { rules, .. }) in &self.0 {
            file.extend(["user ", name, " ", rules, "\n"]);
        }
        let urls = self.0.values().map(|user| (user.key.clone(), bytes(&user.url)));
        urls.chain([(FILE.to_owned(), bytes(&file))]).collect()
    }

    /// Returns the name and the rules of each user.
    pub(super) fn rules(&self) -> impl Iterator<Item = (&str, &str)> + Send {
        self.0.iter().map(|(name, user)| (name.as_str(), user.rules.as_str()))
    }

    /// Whether a user of Redis belongs to a model that this namespace no longer has.
    pub(super) fn is_gone(&self, namespace: &str, user: &str) -> bool {
        user.starts_with(&prefix(namespace)) && !self.0.contains_key(user)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Start of the names of users. Several namespaces may share one Redis. Names of namespaces contain
/// no dot.
fn prefix(namespace: &str) -> String {
    format!("worker.{namespace}.")
}

/// Returns the password in the URL of a user.
fn password<'a>(url: &'a str, user: &str) -> Option<&'a str> {
    let credentials = url.split_once("://")?.1.strip_prefix(user)?.strip_prefix(':')?;
    let password = credentials.split_once('@')?.0;
    (!password.is_empty()).then_some(password)
}

/// Returns the hashes of passwords in the line of a user, the newest first.
fn hashes<'a>(file: &'a str, user: &str) -> impl Iterator<Item = &'a str> {
    let start = format!("user {user} reset on ");
    let rules = file.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default();
    rules.split(' ').take_while(|rule| is_hash(rule))
}

fn is_hash(rule: &str) -> bool {
    let digits = rule.strip_prefix('#').unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}
