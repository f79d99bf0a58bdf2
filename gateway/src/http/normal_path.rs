//! Paths with slashes that a client has added by mistake: `/v2/health/ready/`, `//v2/models/m`. Pure.

use std::borrow::Cow;

/// The path without a slash at its end and without doubled slashes. A slash that stands for a missing
/// model name stays, so that the request does not take the next part of the path for the name.
pub(super) fn normal(path: &str) -> Cow<'_, str> {
    if path == "/" || !path.ends_with('/') && !path.contains("//") {
        return path.into();
    }
    let mut normal = String::with_capacity(path.len());
    for part in path.split('/').skip(1) {
        if !part.is_empty() || normal.ends_with("/models") {
            normal.push('/');
            normal.push_str(part);
        }
    }
    if normal.len() > 1 && normal.ends_with('/') {
        normal.pop();
    }
    if normal.is_empty() {
        normal.push('/');
    }
    normal.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_slashes_do_not_count() {
        for (path, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/v2", "/v2"),
            ("/v2/", "/v2"),
            ("//v2///health//ready//", "/v2/health/ready"),
            ("/v2/models/m/infer/", "/v2/models/m/infer"),
            ("/v2//models/m/versions//1/infer", "/v2/models/m/versions/1/infer"),
            ("*", "*"),
        ] {
            assert_eq!(normal(path), expected, "{path}");
        }
    }

    #[test]
    fn a_missing_model_name_stays_missing() {
        assert_eq!(normal("/v2/models//infer"), "/v2/models//infer");
        assert_eq!(normal("//v2/models//versions/1/infer/"), "/v2/models//versions/1/infer");
        assert_eq!(normal("/v2/models/"), "/v2/models");
    }
}
