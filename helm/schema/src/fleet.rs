//! Converts the `spec` in the custom resource definition of `ModelFleet` to plain JSON schema.

use anyhow::{Context, Result};
use batchfleet_controller::crd;
use serde_json::{Value, json};

const SPEC: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";

/// Returns the schema of a fleet's spec, which forbids unknown fields.
pub(crate) fn schema() -> Result<Value> {
    let definition = crd::definition()?;
    let mut spec = definition.pointer(SPEC).context("the definition has no spec")?.clone();
    plain(&mut spec);
    Ok(spec)
}

/// Converts Kubernetes' schema extensions to plain JSON schema, and removes extensions that only
/// Kubernetes can check. Forbids unknown fields, which the API server would drop silently.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.remove("x-kubernetes-int-or-string").is_some() {
                fields.insert("type".to_owned(), json!(["integer", "string"]));
            }
            if fields.remove("nullable") == Some(json!(true))
                && let Some(kind @ Value::String(_)) = fields.get("type").cloned()
            {
                fields.insert("type".to_owned(), json!([kind, "null"]));
            }
            fields.retain(|name, _| !name.starts_with("x-kubernetes-"));
            if fields.get("properties").is_some_and(Value::is_object)
                && fields.contains_key("type")
                && !fields.contains_key("additionalProperties")
            {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
            fields.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_of_a_fleet_are_forbidden_at_every_depth() {
        let spec = schema().unwrap();
        let source = "/properties/model/properties/source";
        for place in ["", "/properties/batch", source, "/properties/pod"] {
            assert_eq!(spec.pointer(place).unwrap()["additionalProperties"], false, "{place}");
        }
    }

    #[test]
    fn amounts_may_be_numbers_or_strings() {
        let amounts = &schema().unwrap()["properties"]["worker"]["properties"]["limits"];
        assert_eq!(amounts["additionalProperties"]["type"], json!(["integer", "string"]));
    }
}
