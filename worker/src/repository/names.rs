//! The names allowed for models and versions.

/// What [`is_model_name`] allows, for messages.
pub(super) const MODEL_NAME: &str =
    "1 to 128 letters A to Z and a to z, digits, '_', '-' and '.', and does not begin with '.'";

/// Whether a folder can be a model: the name must fit a URL and a Redis key, and must not be
/// hidden, like `.git` and `..data`.
pub(super) fn is_model_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.chars().all(allowed)
}

/// Parses the name of a version's folder: a positive number without leading zeros, as in Triton.
pub(super) fn version_number(name: &str) -> Option<u64> {
    let digits = !name.starts_with('0') && name.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| name.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_no_versions_are_ignored() {
        for (name, version) in
            [("1", Some(1)), ("0", None), ("01", None), ("v1", None), ("", None), ("12", Some(12))]
        {
            assert_eq!(version_number(name), version, "{name:?}");
        }
    }
}
