//! The names of models and versions in a path, and of tensors in a request.
//!
//! A malformed name of a model or version counts as unknown: 404 `model_not_found`.

use std::borrow::Cow;

use batchfleet_broker::ids::is_model_name;

use crate::{
    json::{Kind, Reader},
    problem::{Problem, quote},
};

/// Reads the (percent-decoded) name of a model: 1 to 128 of `[A-Za-z0-9._-]`, not `.` or `..`.
pub fn model(name: &str) -> Result<&str, Problem> {
    if is_model_name(name) {
        return Ok(name);
    }
    Err(Problem::model_not_found(format!("there is no model {}", quote(name))))
}

/// Reads a version: a decimal number of at least 1, without leading zeros.
pub fn version(text: &str) -> Result<u64, Problem> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| Problem::model_not_found(format!("there is no version {}", quote(text))))
}

/// Reads the name of an input or output; `code` is the error code for a value that is not a string.
pub(crate) fn tensor<'a>(
    reader: &mut Reader<'a>,
    code: &'static str,
) -> Result<Cow<'a, str>, Problem> {
    match reader.kind()? {
        Kind::Text => reader.text(),
        kind => Err(Problem::bad(code, format!("name should be a string, not {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b10_a_malformed_model_name_is_not_found() {
        let long = "a".repeat(129);
        for name in [
            "",
            ".",
            "..",
            "../../etc",
            "..%2fetc",
            "a\0",
            "%zz",
            &long,
            "modèle",
            "a\u{202e}b",
            "a b",
        ] {
            let problem = model(name).unwrap_err();
            assert_eq!((problem.status, problem.code), (404, "model_not_found"), "{name:?}");
        }
        for name in ["digits_wide", "a", "...", "resnet-50.v2", &long[1..]] {
            assert_eq!(model(name), Ok(name));
        }
    }

    #[test]
    fn b11_a_malformed_version_is_not_found() {
        for text in ["", "0", "01", "0x1", "-1", "+1", "1.0", " 1", "99999999999999999999", "١"] {
            let problem = version(text).unwrap_err();
            assert_eq!((problem.status, problem.code), (404, "model_not_found"), "{text:?}");
        }
        assert_eq!(version("18446744073709551615"), Ok(u64::MAX));
    }
}
