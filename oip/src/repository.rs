//! Requests to load and to unload a model, an extension of the protocol by Triton.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

use crate::problem::{Problem, quote};

/// The parameter of an unload that names the models of an ensemble. No model depends on another here, so
/// it has no effect.
const UNLOAD_DEPENDENTS: &str = "unload_dependents";

#[derive(Debug, Default, Deserialize)]
struct ControlRequest {
    #[serde(default)]
    #[expect(clippy::zero_sized_map_values, reason = "the values are not kept, however large")]
    parameters: BTreeMap<String, IgnoredAny>,
}

/// The names of the parameters in the body of a request to load or unload a model, which may be empty.
///
/// # Errors
///
/// The body is not a JSON object of the protocol.
pub fn parameters(body: &[u8]) -> Result<Vec<String>, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let request: ControlRequest = serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() { "bad_request" } else { "bad_json" };
        Problem::bad(code, format!("model control: {}", quote(&error.to_string())))
    })?;
    Ok(request.parameters.into_keys().collect())
}

/// Checks the names of the parameters of a load.
///
/// # Errors
///
/// There is a parameter: a model is loaded as it is in the repository.
pub fn check_load<'a>(mut parameters: impl Iterator<Item = &'a str>) -> Result<(), Problem> {
    let Some(name) = parameters.next() else { return Ok(()) };
    Err(Problem::unsupported(format!(
        "parameter {}: a model is loaded from its folder in the repository, with the config.pbtxt there; \
         change the files of the repository, then load the model without parameters",
        quote(name)
    )))
}

/// Checks the names of the parameters of an unload.
///
/// # Errors
///
/// There is an unknown parameter.
pub fn check_unload<'a>(mut parameters: impl Iterator<Item = &'a str>) -> Result<(), Problem> {
    match parameters.find(|name| *name != UNLOAD_DEPENDENTS) {
        None => Ok(()),
        Some(name) => Err(Problem::unsupported(format!(
            "parameter {}: an unload takes only {UNLOAD_DEPENDENTS}",
            quote(name)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_be_empty_or_have_parameters() {
        for (body, names) in [
            ("", &[][..]),
            (" \n", &[]),
            ("{}", &[]),
            (r#"{"parameters": {}}"#, &[]),
            (r#"{"parameters": {"unload_dependents": false}}"#, &["unload_dependents"]),
            (r#"{"parameters": {"config": "{}", "file:1/m": "AA=="}}"#, &["config", "file:1/m"]),
        ] {
            assert_eq!(parameters(body.as_bytes()).unwrap(), names, "{body}");
        }
        for (body, code) in
            [("{", "bad_json"), ("[1]", "bad_request"), (r#"{"parameters": 1}"#, "bad_request")]
        {
            assert_eq!(parameters(body.as_bytes()).unwrap_err().code, code, "{body}");
        }
    }

    #[test]
    fn what_would_change_a_model_is_refused_with_the_way_to_do_it() {
        assert_eq!(check_load([].into_iter()), Ok(()));
        let refused = check_load(["config"].into_iter()).unwrap_err();
        assert!(
            refused.message.starts_with("parameter \"config\": a model is loaded from its folder")
        );
        assert_eq!(check_unload([UNLOAD_DEPENDENTS].into_iter()), Ok(()));
        assert_eq!(check_unload(["all"].into_iter()).unwrap_err().code, "unsupported");
    }
}
