//! The reason for the end of a worker, from its exit status and its last words. Pure.

/// Exit status of a worker whose settings, model or Redis must change first.
const SETTINGS: i32 = 64;

/// Returns the reason of the condition.
pub(super) fn reason(code: i32, words: &str) -> &'static str {
    match code {
        0 => "WorkerEnded",
        SETTINGS => of_settings(words),
        70 => "BatchHung",
        71 => "DeviceLost",
        80 => "TaskEnded",
        _ => "WorkerFailed",
    }
}

/// The errors of a worker begin with what they are about. Names of models and of files follow, and
/// may be any text.
fn of_settings(words: &str) -> &'static str {
    let about = |subject: &str| words.starts_with(subject);
    let names_a_store = || words.split(": ").next().is_some_and(|subject| subject.contains("://"));
    if about("no model \"") || about("no model in ") {
        "ModelNotFound"
    } else if about("model ") {
        let is_version = words.contains(" asks for version ") && words.ends_with("is not there");
        if is_version { "VersionNotFound" } else { "InvalidSettings" }
    } else if about("cannot read ") && names_a_store() {
        "StoreUnreadable"
    } else if about("cannot ") || about("/") {
        "InvalidSettings"
    } else if words.contains("Redis") || words.contains("--redis-") {
        "RedisRefused"
    } else {
        "InvalidSettings"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_settings_is_named_by_its_subject_and_not_by_the_names_in_it() {
        for (words, expected) in [
            ("no model \"Redis-x\" in /models; there is: wide", "ModelNotFound"),
            ("no model in /models: expected <model>/<version>/model.onnx", "ModelNotFound"),
            ("model Redis-x: --model asks for version 3, which is not there", "VersionNotFound"),
            (
                "model m: its version_policy asks for version 3, which is not there",
                "VersionNotFound",
            ),
            ("model Redis-x:1: its config.pbtxt names it \"y\"", "InvalidSettings"),
            ("cannot read s3://models/Redis: no credentials", "StoreUnreadable"),
            ("cannot read https://models.example/: connection refused", "StoreUnreadable"),
            ("cannot read /models/Redis: denied", "InvalidSettings"),
            ("/models/Redis/config.pbtxt, line 3: expected a value", "InvalidSettings"),
            ("Redis at r:6379 denies access to user \"w\": WRONGPASS", "RedisRefused"),
            ("Redis at r:6379 has version 6.2, and Batchfleet needs 7.0 or newer", "RedisRefused"),
            ("the certificate of Redis is not trusted: expired; set --redis-ca", "RedisRefused"),
            ("no TLS with Redis: bad record", "RedisRefused"),
            ("--redis-url-file /etc/url: not found", "RedisRefused"),
            ("--batch 65 is more than 64", "InvalidSettings"),
        ] {
            assert_eq!(reason(SETTINGS, words), expected, "{words}");
        }
    }
}
