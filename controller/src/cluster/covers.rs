//! Compares an existing object with the desired fields. Pure.

use serde_json::Value;

/// Fields with Kubernetes quantities. The API server normalizes quantities: `1000m` becomes `1`.
const AMOUNTS: [&str; 4] = ["averageValue", "limits", "requests", "sizeLimit"];

/// Returns whether `existing` has every field of `desired`.
pub(super) fn covers(existing: &Value, desired: &Value) -> bool {
    difference(existing, desired).is_none()
}

/// Returns the path of the first field of `desired` that `existing` lacks or has with another value,
/// such as `spec.template.spec.containers[0].image`.
///
/// Additional fields of `existing` are ignored, because the API server and other clients add some.
/// Lists must have the same elements in the same order. A field that is `false` in `desired` may be
/// absent in `existing`: the API server omits `false` where `false` is the default.
pub(super) fn difference(existing: &Value, desired: &Value) -> Option<String> {
    match (existing, desired) {
        (Value::Object(existing), Value::Object(desired)) => {
            desired.iter().find_map(|(name, desired)| {
                let Some(existing) = existing.get(name) else {
                    return (*desired != Value::Bool(false)).then(|| name.clone());
                };
                let inner = if AMOUNTS.contains(&name.as_str()) {
                    difference(&in_numbers(existing), &in_numbers(desired))
                } else {
                    difference(existing, desired)
                };
                inner.map(|inner| joined(name, &inner))
            })
        }
        (Value::Array(existing), Value::Array(desired)) if existing.len() == desired.len() => {
            existing.iter().zip(desired).enumerate().find_map(|(place, (existing, desired))| {
                difference(existing, desired).map(|inner| joined(&format!("[{place}]"), &inner))
            })
        }
        (existing, desired) => (existing != desired).then(String::new),
    }
}

/// Returns the fields of `desired` with the values that `existing` has for them. Fields that `existing`
/// lacks are omitted.
pub(super) fn restricted(existing: &Value, desired: &Value) -> Value {
    match (existing, desired) {
        (Value::Object(existing), Value::Object(desired)) => desired
            .iter()
            .filter_map(|(name, desired)| {
                Some((name.clone(), restricted(existing.get(name)?, desired)))
            })
            .collect(),
        (Value::Array(existing), Value::Array(desired)) if existing.len() == desired.len() => {
            let pairs = existing.iter().zip(desired);
            pairs.map(|(existing, desired)| restricted(existing, desired)).collect()
        }
        (existing, _) => existing.clone(),
    }
}

fn joined(outer: &str, inner: &str) -> String {
    let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
    format!("{outer}{dot}{inner}")
}

/// Converts a quantity, or each quantity of a map, to a number.
fn in_numbers(amounts: &Value) -> Value {
    match amounts {
        Value::Object(amounts) => {
            amounts.iter().map(|(name, amount)| (name.clone(), in_numbers(amount))).collect()
        }
        Value::String(text) => number(text).map_or_else(|| amounts.clone(), Value::from),
        other => other.clone(),
    }
}

/// Parses a quantity: `500m` is 0.5, `2Gi` is 2^31.
fn number(amount: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 16] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    let (digits, unit) =
        UNITS.iter().find_map(|(unit, factor)| Some((amount.strip_suffix(unit)?, factor)))?;
    Some(digits.parse::<f64>().ok()? * unit)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{covers, difference, restricted};

    #[test]
    fn added_fields_are_ignored_but_changed_and_removed_ones_are_not() {
        let desired = json!({"spec": {"containers": [{"name": "worker", "args": ["--a"]}]}});
        let spec = |container| json!({"spec": {"containers": [container], "replicas": 3}});
        for (existing, is_covered) in [
            (spec(json!({"name": "worker", "args": ["--a"], "tty": false})), true),
            (spec(json!({"name": "worker", "args": ["--b"]})), false),
            (spec(json!({"name": "worker", "args": ["--a", "--b"]})), false),
            (spec(json!({"name": "worker"})), false),
            (json!({}), false),
        ] {
            assert_eq!(covers(&existing, &desired), is_covered, "{existing}");
        }
    }

    #[test]
    fn the_first_difference_is_named_by_its_path() {
        let desired = json!({"spec": {"containers": [{"image": "a"}, {"image": "b"}], "max": 3}});
        let existing = json!({"spec": {"containers": [{"image": "a"}, {"image": "c"}], "max": 3}});
        let path = difference(&existing, &desired);
        assert_eq!(path.as_deref(), Some("spec.containers[1].image"));
        let removed = json!({"spec": {"containers": [{"image": "a"}, {"image": "b"}]}});
        assert_eq!(difference(&removed, &desired).as_deref(), Some("spec.max"));
    }

    #[test]
    fn a_restricted_object_has_the_desired_fields_and_the_existing_values() {
        let desired = json!({"spec": {"containers": [{"image": "a"}], "max": 3, "gone": 1}});
        let existing = json!({"spec": {
            "containers": [{"image": "mirror/a", "tty": false}], "max": 3, "extra": true,
        }});
        assert_eq!(
            restricted(&existing, &desired),
            json!({"spec": {"containers": [{"image": "mirror/a"}], "max": 3}})
        );
    }

    #[test]
    fn a_false_field_may_be_absent_but_not_a_true_one() {
        let mount = |read_only| json!({"mountPath": "/models", "readOnly": read_only});
        let existing = json!({"mountPath": "/models"});
        assert!(covers(&existing, &mount(false)));
        assert!(!covers(&existing, &mount(true)));
        assert!(!covers(&mount(true), &mount(false)));
    }

    #[test]
    fn amounts_are_compared_as_numbers() {
        for (existing, desired, is_covered) in [
            ("1", "1000m", true),
            ("1", "1.0", true),
            ("2Gi", "2048Mi", true),
            ("2G", "2Gi", false),
            ("2", "3", false),
        ] {
            let limits = |amount| json!({"limits": {"cpu": amount}});
            assert_eq!(
                covers(&limits(existing), &limits(desired)),
                is_covered,
                "{existing} {desired}"
            );
        }
        let args = |arg| json!({"args": [arg]});
        assert!(!covers(&args("1"), &args("1000m")));
    }
}
