//! Whether an object already is what it should be.

use serde_json::Value;

/// Fields of amounts, which the API server writes in its own way: `1000m` becomes `1`.
const AMOUNTS: [&str; 4] = ["averageValue", "limits", "requests", "sizeLimit"];

/// Whether all that is `wanted` stands; the API server and others may have added more. Lists must
/// be as long, and of the same things in the same order. What is `false` may be left out, as the API
/// server does, which fills in every field that would mean something else without a value.
pub(super) fn covers(stands: &Value, wanted: &Value) -> bool {
    match (stands, wanted) {
        (Value::Object(stands), Value::Object(wanted)) => wanted.iter().all(|(name, wanted)| {
            let Some(stands) = stands.get(name) else { return *wanted == Value::Bool(false) };
            if AMOUNTS.contains(&name.as_str()) {
                return covers(&in_numbers(stands), &in_numbers(wanted));
            }
            covers(stands, wanted)
        }),
        (Value::Array(stands), Value::Array(wanted)) => {
            stands.len() == wanted.len() && stands.iter().zip(wanted).all(|(s, w)| covers(s, w))
        }
        (stands, wanted) => stands == wanted,
    }
}

/// An amount, or amounts by name, as numbers.
fn in_numbers(amounts: &Value) -> Value {
    match amounts {
        Value::Object(amounts) => {
            amounts.iter().map(|(name, amount)| (name.clone(), in_numbers(amount))).collect()
        }
        Value::String(text) => number(text).map_or_else(|| amounts.clone(), Value::from),
        other => other.clone(),
    }
}

/// `500m` is 0.5, `2Gi` is 2^31.
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

    use super::covers;

    #[test]
    fn what_others_added_does_not_count_but_what_they_changed_or_removed_does() {
        let wanted = json!({"spec": {"containers": [{"name": "worker", "args": ["--a"]}]}});
        let spec = |container| json!({"spec": {"containers": [container], "replicas": 3}});
        for (stands, is_covered) in [
            (spec(json!({"name": "worker", "args": ["--a"], "tty": false})), true),
            (spec(json!({"name": "worker", "args": ["--b"]})), false),
            (spec(json!({"name": "worker", "args": ["--a", "--b"]})), false),
            (spec(json!({"name": "worker"})), false),
            (json!({}), false),
        ] {
            assert_eq!(covers(&stands, &wanted), is_covered, "{stands}");
        }
    }

    #[test]
    fn what_is_false_may_be_left_out_but_not_what_is_true() {
        let mount = |read_only| json!({"mountPath": "/models", "readOnly": read_only});
        let stands = json!({"mountPath": "/models"});
        assert!(covers(&stands, &mount(false)));
        assert!(!covers(&stands, &mount(true)));
        assert!(!covers(&mount(true), &mount(false)));
    }

    #[test]
    fn an_amount_is_the_same_however_it_is_written() {
        for (stands, wanted, is_covered) in [
            ("1", "1000m", true),
            ("1", "1.0", true),
            ("2Gi", "2048Mi", true),
            ("2G", "2Gi", false),
            ("2", "3", false),
        ] {
            let limits = |amount| json!({"limits": {"cpu": amount}});
            assert_eq!(covers(&limits(stands), &limits(wanted)), is_covered, "{stands} {wanted}");
        }
        let args = |arg| json!({"args": [arg]});
        assert!(!covers(&args("1"), &args("1000m")));
    }
}
