use std::collections::BTreeMap;

use batchfleet_testkit::RedisServer;
use k8s_openapi::{ByteString, api::core::v1::PodSpec};
use serde_json::json;

use super::{plan::FILE, *};
use crate::{certificates::text, fake::FakeApi, objects::mounted_keys};

const SECRET: &str = "users";
type Data = BTreeMap<String, ByteString>;

fn models(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn planned(names: &[&str], existing: Option<&Data>) -> Plan {
    let url = |user: &str, password: &str| Ok(format!("redis://{user}:{password}@redis:6379/0"));
    plan("ml", &models(names), existing, url).unwrap()
}

fn field<'a>(data: &'a Data, key: &str) -> &'a str {
    std::str::from_utf8(&data[key].0).unwrap()
}

#[test]
fn passwords_are_kept_and_users_leave_with_their_models() {
    let first = planned(&["a", "b"], None);
    assert_eq!(planned(&["a", "b"], Some(&first.data())), first);
    let later = planned(&["b", "c"], Some(&first.data()));
    assert_eq!(field(&later.data(), "url.b"), field(&first.data(), "url.b"));
    assert!(!later.data().contains_key("url.a") && !field(&later.data(), FILE).contains(".a "));
    assert!(later.is_gone("ml", "worker.ml.a"));
    for kept in ["worker.ml.b", "worker.other.a", "worker", "worker.ml"] {
        assert!(!later.is_gone("ml", kept), "{kept}");
    }
}

#[test]
fn the_url_follows_the_hosts_and_keeps_the_password() {
    let first = planned(&["a"], None).data();
    let url = |user: &str, password: &str| Ok(format!("rediss://{user}:{password}@b:1"));
    let moved = plan("ml", &models(&["a"]), Some(&first), url).unwrap().data();
    let expected = field(&first, "url.a").replace("redis://", "rediss://");
    assert_eq!(field(&moved, "url.a"), expected.replace("@redis:6379/0", "@b:1"));
    assert_eq!(field(&moved, FILE), field(&first, FILE));
}

#[test]
fn the_two_newest_passwords_are_valid() {
    let hashes = |data: &Data| -> Vec<String> {
        field(data, FILE).split(' ').filter(|it| it.starts_with('#')).map(str::to_owned).collect()
    };
    let mut data = planned(&["a"], None).data();
    let mut newest = hashes(&data);
    for _ in 0..2 {
        data.remove("url.a");
        data = planned(&["a"], Some(&data)).data();
        let valid = hashes(&data);
        assert_eq!((valid.len(), &valid[1]), (2, &newest[0]));
        newest = valid;
    }
    assert_eq!(hashes(&planned(&["a"], Some(&data)).data()), newest);
}

#[test]
fn names_that_mean_something_in_rules_get_no_user() {
    assert_eq!(planned(&["a*", "a b", "", "a:1", "a}"], None), Plan::default());
}

#[test]
fn junk_in_the_secret_adds_no_right() {
    let junk = "user worker.ml.a reset on nopass #12 ~* +@all\nuser root on nopass ~* &* +@all";
    let url = "redis://worker.ml.b:known@redis".to_owned();
    let data = [(FILE, junk.to_owned()), ("url.a", url)];
    let data: Data = data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).into();
    let planned = planned(&["a"], Some(&data)).data();
    let file = field(&planned, FILE);
    assert!(!file.contains("nopass") && !file.contains("root") && !file.contains(" ~*"));
    assert_eq!(file.matches('#').count(), 1);
    assert!(!field(&planned, "url.a").contains("known"));
}

#[test]
fn pods_show_the_models_whose_users_they_need() {
    let pod: PodSpec = serde_json::from_value(json!({"containers": [], "volumes": [
        {"name": "redis", "secret": {"secretName": SECRET, "items": [{"key": "url.a", "path": "url"}]}},
        {"name": "other", "secret": {"secretName": "other", "items": [{"key": "url.b", "path": "x"}]}},
        {"name": "scratch", "emptyDir": {}},
    ]}))
    .unwrap();
    let keys = mounted_keys(&pod, SECRET);
    assert_eq!(keys.iter().filter_map(|key| plan::model(key)).collect::<Vec<_>>(), ["a"]);
}

/// A real Redis with a user who may change users, and a fake API server.
struct World {
    redis: RedisServer,
    server: FakeApi,
    users: ModelUsers,
}

impl World {
    async fn new() -> Self {
        let redis = RedisServer::start().await;
        let admin = "on >secret -@all +role +acl|setuser +acl|deluser +acl|users";
        let answer = redis.ask(&format!("ACL SETUSER admin {admin}")).await.unwrap();
        assert!(answer.ends_with("+OK\r\n"), "{answer}");
        let server = FakeApi::default();
        let admin = RedisAddress::from(&format!("redis://admin:secret@{}", redis.address()));
        let address = RedisAddress::from(&redis.url());
        let users = ModelUsers::new(&server.client(), "ml", SECRET, address, admin);
        Self { redis, server, users }
    }

    async fn update(&self, names: &[&str]) -> Result<(), UsersError> {
        self.users.update(&models(names)).await
    }

    async fn secret(&self) -> Secret {
        self.users.secrets.get(SECRET).await.unwrap()
    }

    async fn may(&self, user: &str, command: &str) -> bool {
        let answer = self.redis.ask(&format!("ACL DRYRUN {user} {command}")).await.unwrap();
        let answer = answer.strip_prefix("+PONG\r\n").unwrap();
        assert!(answer == "+OK\r\n" || answer.contains("no permissions"), "{command}: {answer}");
        answer == "+OK\r\n"
    }

    /// Whether the URL of a model leads into Redis.
    async fn admits(&self, url: &str) -> bool {
        let credentials = url.strip_prefix("redis://").unwrap().split_once('@').unwrap().0;
        let (user, password) = credentials.split_once(':').unwrap();
        let answer = self.redis.ask(&format!("AUTH {user} {password}")).await.unwrap();
        answer.ends_with("+OK\r\n")
    }
}

#[tokio::test]
async fn each_model_gets_a_user_without_rights_on_others() {
    let world = World::new().await;
    world.update(&["a", "b"]).await.unwrap();
    let secret = world.secret().await;
    for (own, other) in [("a", "b"), ("b", "a")] {
        assert!(world.admits(text(&secret, &format!("url.{own}")).unwrap()).await);
        let user = format!("worker.ml.{own}");
        for (command, is_allowed) in [
            (format!("XREADGROUP GROUP workers w STREAMS bf:{{{own}:1}}:q:default >"), true),
            (format!("XREADGROUP GROUP workers w STREAMS bf:{{{other}:1}}:q:default >"), false),
            (format!("XACK bf:{{{other}:1}}:q:default workers 0-1"), false),
            (format!("HSET bf:{{{other}:1}}:workers w x"), false),
            ("HSET bf:{fleet}:workers w x".to_owned(), false),
            ("ACL SETUSER x on".to_owned(), false),
        ] {
            assert_eq!(world.may(&user, &command).await, is_allowed, "{user}: {command}");
        }
    }
    world.server.writes();
    world.update(&["a", "b"]).await.unwrap();
    assert!(world.server.writes().is_empty());
}

#[tokio::test]
async fn users_return_after_a_loss_with_the_same_password_and_leave_with_their_model() {
    let world = World::new().await;
    world.redis.ask("ACL SETUSER worker.other.a on").await.unwrap();
    world.update(&["a", "b"]).await.unwrap();
    let url = text(&world.secret().await, "url.a").unwrap().to_owned();
    world.redis.ask("ACL DELUSER worker.ml.a").await.unwrap();
    assert!(!world.admits(&url).await);
    world.update(&["a"]).await.unwrap();
    assert!(world.admits(&url).await);
    let users = world.redis.ask("ACL USERS").await.unwrap();
    assert!(!users.contains("worker.ml.b") && users.contains("worker.other.a"), "{users}");
}

#[tokio::test]
async fn a_removed_url_is_replaced_and_the_previous_password_stays_valid() {
    let world = World::new().await;
    world.update(&["a"]).await.unwrap();
    let previous = text(&world.secret().await, "url.a").unwrap().to_owned();
    world.server.edit("secrets/users", |secret| {
        secret["data"].as_object_mut().unwrap().remove("url.a");
    });
    world.update(&["a"]).await.unwrap();
    let current = text(&world.secret().await, "url.a").unwrap().to_owned();
    assert_ne!(previous, current);
    assert!(world.admits(&previous).await && world.admits(&current).await);
}

#[tokio::test]
async fn running_workers_keep_the_shared_user_until_that_of_their_model_exists() {
    let world = World::new().await;
    let deployment = |secret: &str| -> Deployment {
        let volumes = json!([{"name": "redis", "secret": {
            "secretName": secret, "items": [{"key": "url.a", "path": "url"}]}}]);
        serde_json::from_value(json!({"spec": {"selector": {}, "template": {"spec": {
            "containers": [], "volumes": volumes}}}}))
        .unwrap()
    };
    let own = WorkerRedis::Secret { name: SECRET.to_owned(), key: "url.a".to_owned() };
    let of = |deployment: Option<&Deployment>| world.users.redis_of("a", deployment);
    assert_eq!(of(Some(&deployment("shared"))), None);
    assert_eq!(of(Some(&deployment(SECRET))), Some(own.clone()));
    assert_eq!(of(None), Some(own.clone()));
    world.redis.ask("ACL DELUSER admin").await.unwrap();
    world.update(&["a"]).await.unwrap_err();
    assert_eq!(of(Some(&deployment("shared"))), None);
    world.redis.ask("ACL SETUSER admin on nopass +@all").await.unwrap();
    world.update(&["a"]).await.unwrap();
    assert_eq!(of(Some(&deployment("shared"))), Some(own));
}
