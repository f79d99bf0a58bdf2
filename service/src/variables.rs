//! Environment variables that no program knows. A setting that is not obeyed could leave a gateway
//! without access control.

use clap::Command;

/// The start of every environment variable that is a setting.
const PREFIX: &str = "BATCHFLEET_";
/// The most letters by which a misspelt name differs from a setting.
const LARGEST_TYPO: usize = 2;

/// The names of all variables of all programs, without [`PREFIX`]. Several programs may share an
/// environment, so each accepts the settings of the others.
const KNOWN: &[&str] = &[
    "ACCESS_LOG",
    "ADMIN_LISTEN",
    "ALLOW_ORIGIN",
    "API_KEY",
    "API_KEYS",
    "AUTH_FAILURE_RATE",
    "BATCH",
    "BATCH_SIZES",
    "BODY_TIMEOUT",
    "CLIENT_IN_FLIGHT",
    "CLIENT_RATE",
    "CUT",
    "DEADLINE",
    "DEFAULT_CLASS",
    "DEVICE",
    "DRAIN_TIMEOUT",
    "ENGINE_CACHE",
    "EXECUTION_PROVIDER",
    "EXIT_ON_ERROR",
    "EXTERNAL_METRICS_CERTIFICATE",
    "EXTERNAL_METRICS_KEY",
    "EXTERNAL_METRICS_LISTEN",
    "EXTERNAL_METRICS_SERVICE",
    "FETCH_FROM",
    "FORGET_AFTER",
    "GRPC_LISTEN",
    "GRPC_MAX_CONNECTION_AGE",
    "HTTP_THREADS",
    "INTRA_OP_THREADS",
    "JWT_AUDIENCE",
    "JWT_CLASS_CLAIM",
    "JWT_CLOCK_SKEW",
    "JWT_ISSUER",
    "JWT_JWKS_CA",
    "JWT_JWKS_FILE",
    "JWT_JWKS_URL",
    "JWT_MODELS_CLAIM",
    "JWT_NAME_CLAIM",
    "JWT_RATE_CLAIM",
    "KEEP_ALIVE",
    "KSERVE_V1",
    "LAME_DUCK",
    "LINGER",
    "LISTEN",
    "LIVE_PAGE",
    "LOAD_MODEL",
    "LOG",
    "LOG_FORMAT",
    "MAX_BATCH",
    "MAX_BATCH_TIME",
    "MAX_BODY",
    "MAX_BODY_BYTES_IN_FLIGHT",
    "MAX_CONNECTIONS",
    "MAX_CONNECTIONS_PER_ADDRESS",
    "MAX_CONNECTION_BYTES",
    "MAX_DEADLINE",
    "MAX_IN_FLIGHT",
    "MAX_MEMCPY_NODES",
    "MODEL",
    "MODEL_CACHE",
    "MODEL_CONTROL",
    "MODEL_REPOSITORY",
    "MODEL_REPOSITORY_OPTIONS",
    "MODEL_USERS_SECRET",
    "NAMESPACE",
    "ONNXRUNTIME",
    "PAD",
    "PAD_SIZES",
    "POD_MONITOR_INTERVAL",
    "POD_MONITOR_LABEL",
    "PROVIDER_OPTION",
    "READY_NEEDS_MODEL",
    "REDIS_ADMIN_URL_FILE",
    "REDIS_CA",
    "REDIS_CERT",
    "REDIS_KEY",
    "REDIS_URL",
    "REDIS_URL_FILE",
    "REQUIRE_WARM_UP",
    "SENTINEL_INTERVAL",
    "SLO_P99",
    "STALL_TIMEOUT",
    "STRICT_READINESS",
    "TENSORS_ADVERTISE",
    "TENSORS_LISTEN",
    "TLS_CERT",
    "TLS_CLIENT_CA",
    "TLS_KEY",
    "TRACE_ENDPOINT",
    "TRACE_SAMPLE",
    "TRUSTED_PROXIES",
    "UNREADY_AFTER",
    "USAGE_SERIES",
    "WORKERS_PER_SHARD",
    "WORKER_IMAGE",
    "WORKER_REDISES",
    "WORKER_REDIS_SECRET",
    "WORKER_REDIS_SECRET_KEY",
    "WORKER_REDIS_TLS_SECRET",
    "WORKER_USER",
];

/// Returns what is wrong with the first variable that is meant as a setting and is none: its name
/// differs from a setting by one or two letters, not counting underscores, or starts with the first
/// word of one, or is a part of one. Other unknown variables are allowed.
pub(crate) fn misspelt(
    program: &Command,
    variables: impl Iterator<Item = String>,
) -> Option<String> {
    debug_assert_eq!(unlisted(program), Vec::<String>::new(), "complete the list `KNOWN`");
    variables.into_iter().find_map(|variable| {
        let setting = meant(&variable)?;
        Some(format!("unknown environment variable {variable}: did you mean {PREFIX}{setting}?"))
    })
}

/// Returns the variables of a program that [`KNOWN`] lacks.
fn unlisted(program: &Command) -> Vec<String> {
    let mut commands = vec![program];
    let mut unlisted = Vec::new();
    while let Some(command) = commands.pop() {
        let names = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
        let names = names.filter_map(|name| name.strip_prefix(PREFIX));
        unlisted.extend(names.filter(|name| !KNOWN.contains(name)).map(str::to_owned));
        commands.extend(command.get_subcommands());
    }
    unlisted
}

/// Returns the setting that an unknown variable is meant to be.
fn meant(variable: &str) -> Option<&'static str> {
    let Some(name) = variable.strip_prefix(PREFIX) else {
        let (prefix, name) = variable.split_once('_')?;
        let typo = strsim::osa_distance(prefix, PREFIX.trim_end_matches('_'));
        let is_prefix = typo <= LARGEST_TYPO;
        return KNOWN.iter().copied().find(|known| is_prefix && *known == name);
    };
    if KNOWN.contains(&name) || is_of_kubernetes(name) {
        return None;
    }
    let distance = |known: &str| strsim::osa_distance(&letters(known), &letters(name));
    let nearest = KNOWN.iter().copied().min_by_key(|known| distance(known))?;
    if distance(nearest) <= LARGEST_TYPO {
        return Some(nearest);
    }
    let related = KNOWN.iter().copied().filter(|known| is_related(known, name));
    related.min_by_key(|known| distance(known))
}

fn letters(name: &str) -> String {
    name.replace('_', "")
}

/// Whether a name starts with the first word of a setting, or is a part of one in two words or more.
fn is_related(known: &str, name: &str) -> bool {
    known.split('_').next() == name.split('_').next()
        || (name.contains('_') && known.contains(name))
}

/// Whether Kubernetes sets a variable of this name in each pod of a namespace, for a Service whose
/// name starts with `batchfleet`: `SERVICE_HOST`, `SERVICE_PORT_NAME`, `PORT`, `PORT_80_TCP_ADDR`.
fn is_of_kubernetes(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let is_number = |word: &&str| word.parse::<u16>().is_ok();
    words.ends_with(&["PORT"])
        || words.windows(2).any(|pair| pair[0] == "PORT" && is_number(&pair[1]))
        || words.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(name: &str) -> Option<String> {
        misspelt(&Command::new("program"), [name.to_owned()].into_iter())
    }

    #[test]
    fn a_misspelt_variable_is_reported_with_the_setting_it_resembles() {
        for (name, setting) in [
            ("BATCHFLEET_ADMINLISTEN", "BATCHFLEET_ADMIN_LISTEN"),
            ("BATCHFLEET_LOG_FROMAT", "BATCHFLEET_LOG_FORMAT"),
            ("BATCHFLEET_DRAIN_TIMEOUTS", "BATCHFLEET_DRAIN_TIMEOUT"),
            ("BATCHFLEET_APIKEY", "BATCHFLEET_API_KEY"),
            ("BATCHFLEET_API_KEYS_FILE", "BATCHFLEET_API_KEYS"),
            ("BATCHFLEET_TLS_CERTIFICATE", "BATCHFLEET_TLS_CERT"),
            ("BATCHFLEET_JWKS_URL", "BATCHFLEET_JWT_JWKS_URL"),
            ("BATCHFLEET_LISTEN_ADDRESS", "BATCHFLEET_LISTEN"),
        ] {
            let problem = complaint(name).unwrap();
            assert!(problem.ends_with(&format!("{name}: did you mean {setting}?")), "{problem}");
        }
        assert!(complaint("BATCHFLEET_REDIS_PASSWORD").unwrap().contains("BATCHFLEET_REDIS_"));
        let prefix = complaint("BATCHFLET_REDIS_URL").unwrap();
        assert!(prefix.ends_with("BATCHFLET_REDIS_URL: did you mean BATCHFLEET_REDIS_URL?"));
    }

    #[test]
    fn settings_of_other_programs_and_variables_of_other_uses_are_allowed() {
        for other in [
            "BATCHFLEET_LOG",
            "BATCHFLEET_MODEL_REPOSITORY",
            "BATCHFLEET_URL",
            "BATCHFLEET_PROGRAMS",
            "LOG",
            "REDIS_URL",
            "BATCH_SIZE",
        ] {
            assert_eq!(complaint(other), None, "{other}");
        }
    }

    #[test]
    fn variables_that_kubernetes_sets_for_services_are_allowed() {
        for other in [
            "BATCHFLEET_PORT",
            "BATCHFLEET_PORT_80_TCP",
            "BATCHFLEET_PORT_80_TCP_PROTO",
            "BATCHFLEET_SERVICE_HOST",
            "BATCHFLEET_SERVICE_PORT",
            "BATCHFLEET_SERVICE_PORT_HTTP",
            "BATCHFLEET_GATEWAY_ADMIN_SERVICE_HOST",
            "BATCHFLEET_REDIS_PORT",
            "BATCHFLEET_REDIS_PORT_6379_TCP_ADDR",
            "BATCHFLEET_REDIS_SERVICE_PORT_REDIS",
        ] {
            assert_eq!(complaint(other), None, "{other}");
        }
        assert!(complaint("BATCHFLEET_REDIS_PORTS").is_some());
    }
}
