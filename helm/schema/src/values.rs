//! Derives the schema from `values.yaml` and its comments.
//!
//! The comment above a key becomes the description of the key, and the default value determines its
//! type. Where the default cannot determine the type, or the type alone allows too much, a mark
//! such as `# @minimum 1` follows the default.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::{flags, fleet};

/// A key of `values.yaml`.
#[derive(Debug, Default)]
pub(crate) struct Key {
    name: String,
    comment: String,
    /// The default as written; empty if the key has nested keys.
    default: String,
    /// The mark after the default without its `@`, such as `minimum 1`.
    mark: Option<String>,
    /// Nested keys.
    below: Vec<Key>,
}

/// Parses the keys of a values file.
///
/// # Errors
/// If a line is neither a comment, nor a key, nor blank.
pub(crate) fn parse(text: &str) -> Result<Vec<Key>> {
    // The keys at each depth of nesting that is open; the first list holds the top-level keys.
    let mut open = vec![Vec::new()];
    let mut comment: Vec<&str> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if let Some(more) = trimmed.strip_prefix('#') {
            comment.push(more.strip_prefix(' ').unwrap_or(more));
            continue;
        }
        if trimmed.is_empty() {
            comment.clear();
            continue;
        }
        let depth = (line.len() - trimmed.len()) / 2;
        ensure!(depth < open.len(), "line {}: indented too deep", number + 1);
        close(&mut open, depth);
        let mut key = key(trimmed).with_context(|| format!("line {}", number + 1))?;
        key.comment = std::mem::take(&mut comment).join("\n");
        if let Some(siblings) = open.last_mut() {
            siblings.push(key);
        }
        open.push(Vec::new());
    }
    close(&mut open, 0);
    Ok(open.pop().unwrap_or_default())
}

/// Closes the lists below a depth: each list becomes the `below` of the key above it.
fn close(open: &mut Vec<Vec<Key>>, depth: usize) {
    while open.len() > depth + 1 {
        let below = open.pop().unwrap_or_default();
        if let Some(above) = open.last_mut().and_then(|siblings| siblings.last_mut()) {
            above.below = below;
        }
    }
}

fn key(line: &str) -> Result<Key> {
    let (name, rest) = line.split_once(':').context("expected a key")?;
    let (default, mark) = match rest.split_once("# @") {
        Some((default, mark)) => (default, Some(mark.trim().to_owned())),
        None => (rest, None),
    };
    let default = default.trim().to_owned();
    Ok(Key { name: name.to_owned(), default, mark, ..Key::default() })
}

/// The keys that apply to the pods of all components. A component has the same keys.
const OF_PODS: [&str; 25] = [
    "affinity",
    "dnsConfig",
    "dnsPolicy",
    "extraContainers",
    "extraEnv",
    "extraEnvFrom",
    "extraInitContainers",
    "extraVolumeMounts",
    "extraVolumes",
    "hostAliases",
    "livenessProbe",
    "nodeSelector",
    "podAnnotations",
    "podLabels",
    "podSecurityContext",
    "priorityClassName",
    "readinessProbe",
    "revisionHistoryLimit",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccount",
    "startupProbe",
    "tolerations",
    "topologySpreadConstraints",
];

/// Returns the schema of these keys, which forbids all other keys.
///
/// # Errors
/// If a key has no comment or no type.
pub(crate) fn schema(keys: &[Key]) -> Result<Value> {
    let mut schema = object(keys)?;
    for component in keys.iter().filter(|key| key.mark.as_deref() == Some("component")) {
        for name in OF_PODS {
            let of_all = schema["properties"][name].clone();
            ensure!(of_all.is_object(), "{}: {name} is no key for all components", component.name);
            schema["properties"][&component.name]["properties"][name] = of_all;
        }
    }
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    // Helm puts values that a parent chart shares with its subcharts into `global`.
    schema["properties"]["global"] = json!({"type": "object"});
    Ok(schema)
}

fn object(keys: &[Key]) -> Result<Value> {
    let mut properties = Map::new();
    for key in keys {
        let mut property = property(key).with_context(|| key.name.clone())?;
        ensure!(!key.comment.is_empty(), "{}: no comment describes the key", key.name);
        property["description"] = json!(key.comment);
        properties.insert(key.name.clone(), property);
    }
    Ok(json!({"type": "object", "additionalProperties": false, "properties": properties}))
}

fn property(key: &Key) -> Result<Value> {
    match key.mark.as_deref() {
        None | Some("component") if key.default.is_empty() => object(&key.below),
        Some("subchart") => {
            let mut values = object(&key.below)?;
            // Helm passes `global` to subcharts.
            values["properties"]["global"] = json!({"type": "object"});
            Ok(values)
        }
        Some(mark) => marked(mark, key),
        None => Ok(json!({"type": scalar(&key.default)?})),
    }
}

fn marked(mark: &str, key: &Key) -> Result<Value> {
    let (kind, argument) = mark.split_once(' ').unwrap_or((mark, ""));
    Ok(match kind {
        "enum" => json!({"enum": argument.split(", ").map(choice).collect::<Vec<_>>()}),
        "list" => json!({"type": "array"}),
        "items" => json!({"type": "array", "items": {"type": argument}}),
        "map" => json!({"type": "object", "additionalProperties": {"type": argument}}),
        "object" => json!({"type": "object"}),
        "minimum" => {
            json!({"type": scalar(&key.default)?, "minimum": argument.parse::<i64>()?})
        }
        "pattern" => json!({"type": "string", "pattern": argument}),
        "port" => json!({"type": "integer", "minimum": 1, "maximum": 65535}),
        "resources" => resources(),
        "settings" => flags::schema(argument)?,
        "fleets" => json!({"type": "object", "additionalProperties": fleet::schema()?}),
        unknown => bail!("unknown mark @{unknown}"),
    })
}

/// Returns a choice of an enum as YAML reads it: `true` and `false` are no strings.
fn choice(text: &str) -> Value {
    text.parse::<bool>().map_or_else(|_| json!(text), Value::from)
}

/// Returns the schema of a container's requests and limits.
fn resources() -> Value {
    let amounts = json!({
        "type": "object",
        "additionalProperties": {"type": ["string", "number"]},
    });
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {"requests": amounts, "limits": amounts},
    })
}

/// Returns the JSON type of a default.
fn scalar(default: &str) -> Result<&'static str> {
    Ok(match default {
        "true" | "false" => "boolean",
        "{}" | "[]" => bail!("a mark must give the type of the content"),
        number if number.parse::<i64>().is_ok() => "integer",
        number if number.parse::<f64>().is_ok() => "number",
        _ => "string",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Value {
        schema(&parse(text).unwrap()).unwrap()["properties"].clone()
    }

    #[test]
    fn a_comment_is_the_description_and_the_default_gives_the_type() {
        let properties = of("# How\n# many.\nreplicas: 2 # @minimum 1\n");
        let expected = json!({"type": "integer", "minimum": 1, "description": "How\nmany."});
        assert_eq!(properties["replicas"], expected);
    }

    #[test]
    fn keys_below_a_key_are_an_object_without_other_keys() {
        let properties =
            of("# A.\na:\n  # B.\n  b:\n    # C.\n    c: x\n  # D.\n  d: true\n# E.\ne: 1.5\n");
        assert_eq!(properties["a"]["additionalProperties"], false);
        assert_eq!(properties["a"]["properties"]["b"]["properties"]["c"]["type"], "string");
        assert_eq!(properties["a"]["properties"]["d"]["type"], "boolean");
        assert_eq!(properties["e"]["type"], "number");
    }

    #[test]
    fn keys_below_a_mark_are_defaults_and_no_keys_of_the_schema() {
        let properties = of("# L.\nlabels: # @map string\n  made_up: \"1\"\n");
        assert_eq!(properties["labels"]["additionalProperties"], json!({"type": "string"}));
    }

    #[test]
    fn a_key_without_a_comment_or_a_type_is_refused() {
        for (text, complaint) in [
            ("a: 1\n", "a: no comment"),
            ("# A.\na: {}\n", "a mark must give"),
            ("# A.\na: 1 # @atleast 1\n", "unknown mark @atleast"),
            ("# A.\na: 1\n    b: 2\n", "indented too deep"),
        ] {
            let error = parse(text).and_then(|keys| schema(&keys)).unwrap_err();
            assert!(format!("{error:#}").contains(complaint), "{error:#}");
        }
    }
}
