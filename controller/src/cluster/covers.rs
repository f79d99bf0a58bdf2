//! Whether an object already is what it should be.

use serde_json::Value;

/// Whether all that is `wanted` stands; the API server and others may have added more. Lists must
/// be as long, and of the same things in the same order.
pub(super) fn covers(stands: &Value, wanted: &Value) -> bool {
    match (stands, wanted) {
        (Value::Object(stands), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, wanted)| stands.get(name).is_some_and(|stands| covers(stands, wanted))),
        (Value::Array(stands), Value::Array(wanted)) => {
            stands.len() == wanted.len() && stands.iter().zip(wanted).all(|(s, w)| covers(s, w))
        }
        (stands, wanted) => stands == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::covers;

    #[test]
    fn what_others_added_does_not_count_but_what_they_changed_or_removed_does() {
        let wanted = json!({"spec": {"containers": [{"name": "worker", "args": ["--a"]}]}});
        for (stands, is_covered) in [
            (
                json!({"spec": {"containers": [{"name": "worker", "args": ["--a"], "tty": false}], "replicas": 3}}),
                true,
            ),
            (json!({"spec": {"containers": [{"name": "worker", "args": ["--b"]}]}}), false),
            (json!({"spec": {"containers": [{"name": "worker", "args": ["--a", "--b"]}]}}), false),
            (json!({"spec": {"containers": [{"name": "worker"}]}}), false),
            (json!({}), false),
        ] {
            assert_eq!(covers(&stands, &wanted), is_covered, "{stands}");
        }
    }
}
