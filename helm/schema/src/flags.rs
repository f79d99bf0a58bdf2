//! Builds the schema of a program's flags, in camel case, without the flags that the chart sets
//! itself.

use std::{any::TypeId, time::Duration};

use anyhow::{Context, Result, bail};
use batchfleet_controller::ControllerSettings;
use clap::{Arg, ArgAction, Command, CommandFactory};
use serde_json::{Map, Value, json};

/// Flags of the gateway or the controller that the chart sets itself.
const OF_THE_CHART: &[&str] = &[
    "admin-listen",
    "api-keys",
    "drain-timeout",
    "external-metrics-certificate",
    "external-metrics-key",
    "external-metrics-listen",
    "external-metrics-service",
    "grpc-listen",
    "identity",
    "jwt-audience",
    "jwt-issuer",
    "jwt-jwks-ca",
    "jwt-jwks-file",
    "jwt-jwks-url",
    "lame-duck",
    "listen",
    "model-users-secret",
    "namespace",
    "pod-monitor-label",
    "redis-admin-url-file",
    "redis-ca",
    "redis-cert",
    "redis-key",
    "redis-url",
    "redis-url-file",
    "tensors-advertise",
    "tensors-listen",
    "tls-cert",
    "tls-client-ca",
    "tls-key",
    "trace-endpoint",
    "trace-sample",
    "worker-image",
    "worker-redis-secret",
    "worker-redis-secret-key",
    "worker-redis-tls-secret",
    "worker-user",
];

/// Returns the schema of the flags of `gateway` or `controller`.
pub(crate) fn schema(program: &str) -> Result<Value> {
    let command = match program {
        "gateway" => batchfleet_gateway::Settings::command(),
        "controller" => ControllerSettings::command(),
        other => bail!("unknown program: {other}"),
    };
    Ok(json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties(&command)?,
    }))
}

fn properties(command: &Command) -> Result<Map<String, Value>> {
    let mut properties = Map::new();
    for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()) {
        let Some(name) = flag.get_long() else { continue };
        if !OF_THE_CHART.contains(&name) {
            let property = property(flag).with_context(|| format!("--{name}"))?;
            properties.insert(camel_case(name), property);
        }
    }
    Ok(properties)
}

fn property(flag: &Arg) -> Result<Value> {
    let mut property = match flag.get_action() {
        ArgAction::Append => json!({"type": "array", "items": one(flag)}),
        ArgAction::Set if flag.get_value_delimiter().is_some() => {
            json!({"type": "array", "items": one(flag)})
        }
        ArgAction::Set => one(flag),
        other => {
            bail!("the chart passes a value to every flag, but this one takes none: {other:?}")
        }
    };
    let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let defaults: Vec<_> = flag.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
    property["description"] = match defaults.as_slice() {
        [default] => json!(format!("{help} [default: {default}]")),
        _ => json!(help),
    };
    Ok(property)
}

/// Returns the schema of one value of a flag.
fn one(flag: &Arg) -> Value {
    let possible: Vec<_> =
        flag.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let parsed = flag.get_value_parser().type_id();
    let whole =
        [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()];
    if parsed == TypeId::of::<bool>() {
        json!({"type": "boolean"})
    } else if !possible.is_empty() {
        json!({"enum": possible})
    } else if whole.iter().any(|whole| parsed == *whole) {
        json!({"type": "integer", "minimum": 0})
    } else if parsed == TypeId::of::<f64>() {
        json!({"type": "number"})
    } else if parsed == TypeId::of::<Duration>() {
        json!({"type": "string", "pattern": "^([0-9]+(ns|us|ms|s|m|h|d) ?)+$"})
    } else {
        json!({"type": "string"})
    }
}

fn camel_case(name: &str) -> String {
    let mut parts = name.split('-');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let (head, tail) = part.split_at(part.len().min(1));
        name + &head.to_uppercase() + tail
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(name: &str) -> Value {
        schema("gateway").unwrap()["properties"][name].clone()
    }

    #[test]
    fn flags_have_the_type_that_the_program_parses() {
        assert_eq!(gateway("maxInFlight")["type"], "integer");
        assert_eq!(gateway("clientRate")["type"], "number");
        assert_eq!(gateway("trustedProxies")["type"], "array");
        assert_eq!(gateway("strictReadiness")["type"], "boolean");
        assert_eq!(gateway("logFormat")["enum"], json!(["json", "text"]));
        assert!(gateway("deadline")["pattern"].as_str().unwrap().contains("ms"));
        assert!(gateway("deadline")["description"].as_str().unwrap().ends_with("[default: 30s]"));
    }

    #[test]
    fn flags_that_the_chart_sets_are_no_settings() {
        for program in ["gateway", "controller"] {
            let settings = schema(program).unwrap();
            for flag in OF_THE_CHART {
                assert_eq!(settings["properties"][camel_case(flag)], Value::Null, "{flag}");
            }
        }
    }
}
