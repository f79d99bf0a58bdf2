//! The content types that an inference request may have. Pure.

use batchfleet_oip::Problem;

/// Checks a content type. Clients of the protocol send octet-stream, JSON or no content type at all,
/// regardless of the body. These content types are therefore accepted for any body, and all others
/// refused.
pub(super) fn check(content_type: &str) -> Result<(), Problem> {
    let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
    let kind = parts.next().unwrap_or_default();
    let mut charsets = parts.filter_map(|part| {
        let (name, value) = part.split_once('=')?;
        (name.trim_end() == "charset").then(|| value.trim().trim_matches('"').to_owned())
    });
    let refuse =
        |message: String| Err(Problem { status: 415, code: "unsupported_media_type", message });
    match kind.as_str() {
        "" | "application/octet-stream" | "binary/octet-stream" => Ok(()),
        "application/json" | "text/json" => match charsets.find(|charset| !is_utf8(charset)) {
            None => Ok(()),
            Some(charset) => refuse(format!("charset {charset:?} of the JSON: send it as utf-8")),
        },
        _ => refuse("send application/json or application/octet-stream".to_owned()),
    }
}

/// Whether a charset is UTF-8 or a part of it, by any of the names that clients use.
fn is_utf8(charset: &str) -> bool {
    matches!(charset, "" | "utf-8" | "utf8" | "us-ascii" | "ascii")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_utf8_is_accepted_under_every_name_of_its_encoding() {
        for accepted in [
            "",
            "application/json",
            "Application/JSON",
            "text/json",
            "application/json;",
            "application/json; charset=utf-8",
            "application/json; charset=utf8",
            "application/json;charset=UTF8",
            "application/json; charset=\"utf8\"",
            "application/json; charset=",
            "application/json; charset=\"\"",
            "application/json; Charset=UTF-8",
            "application/json; odata.metadata=none; charset = utf-8",
            "application/octet-stream",
            "binary/octet-stream",
        ] {
            assert!(check(accepted).is_ok(), "{accepted}");
        }
    }

    #[test]
    fn other_content_types_are_refused_with_what_to_send() {
        for (refused, part) in [
            ("text/plain", "send application/json"),
            ("application/x-www-form-urlencoded", "send application/json"),
            ("application/json, application/json", "send application/json"),
            ("application/json; charset=utf-16", "\"utf-16\""),
            ("application/json;charset=\"iso-8859-1\"", "send it as utf-8"),
        ] {
            let problem = check(refused).unwrap_err();
            assert_eq!(problem.status, 415);
            assert!(problem.message.contains(part), "{refused}: {problem}");
        }
    }
}
