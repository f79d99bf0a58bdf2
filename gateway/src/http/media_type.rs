//! The content types that an inference request may have. Pure.

use batchfleet_oip::Problem;

/// What a content type says about the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    /// JSON or binary: clients of the protocol send either under any of these types.
    Any,
    /// A form, which `curl -d` claims to send when it sends JSON.
    Form,
    /// No content type at all, as some clients of the protocol send.
    Unnamed,
}

/// Checks a content type. Clients of the protocol send octet-stream, JSON or no content type at all,
/// regardless of the body. These are therefore accepted for any body, subject to [`check_page`].
pub(super) fn check(content_type: &str) -> Result<MediaType, Problem> {
    let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
    let kind = parts.next().unwrap_or_default();
    let mut charsets = parts.filter_map(|part| {
        let (name, value) = part.split_once('=')?;
        (name.trim_end() == "charset").then(|| value.trim().trim_matches('"').to_owned())
    });
    match kind.as_str() {
        "" => Ok(MediaType::Unnamed),
        "application/octet-stream" | "binary/octet-stream" => Ok(MediaType::Any),
        "application/x-www-form-urlencoded" => Ok(MediaType::Form),
        kind if is_json(kind) => match charsets.find(|charset| !is_utf8(charset)) {
            None => Ok(MediaType::Any),
            Some(charset) => {
                Err(unsupported(format!("charset {charset:?} of the JSON: send it as utf-8")))
            }
        },
        _ => Err(unsupported("send application/json or application/octet-stream".to_owned())),
    }
}

/// Refuses requests that a browser would send for a page of any site without asking the gateway:
/// forms, and bodies without a content type. Browsers name the origin of the page in each of them; it
/// is foreign if pages of this origin may send no requests. A form has to be JSON.
pub(super) fn check_page(kind: MediaType, body: &[u8], is_foreign: bool) -> Result<(), Problem> {
    let is_accepted = match kind {
        MediaType::Any => true,
        MediaType::Form => !is_foreign && body.trim_ascii_start().starts_with(b"{"),
        MediaType::Unnamed => !is_foreign,
    };
    if is_accepted {
        return Ok(());
    }
    Err(unsupported("send application/json or application/octet-stream".to_owned()))
}

fn unsupported(message: String) -> Problem {
    Problem { status: 415, code: "unsupported_media_type", message }
}

/// Whether a media type is JSON, such as `application/json` or `application/vnd.example+json`.
fn is_json(kind: &str) -> bool {
    let subtype = kind.strip_prefix("application/");
    matches!(kind, "application/json" | "text/json")
        || subtype.is_some_and(|subtype| {
            let name = subtype.strip_suffix("+json");
            name.is_some_and(|name| !name.is_empty() && !name.contains([',', ' ', '/']))
        })
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
            "application/vnd.example.infer+json",
            "application/ld+json; charset=utf-8",
            "application/octet-stream",
            "binary/octet-stream",
        ] {
            assert_eq!(check(accepted), Ok(MediaType::Any), "{accepted}");
        }
    }

    #[test]
    fn other_content_types_are_refused_with_what_to_send() {
        for (refused, part) in [
            ("text/plain", "send application/json"),
            ("application/+json", "send application/json"),
            ("text/vnd.example+json", "send application/json"),
            ("application/a+json, application/b+json", "send application/json"),
            ("application/vnd.example+json; charset=latin1", "\"latin1\""),
            ("application/json, application/json", "send application/json"),
            ("application/json; charset=utf-16", "\"utf-16\""),
            ("application/json;charset=\"iso-8859-1\"", "send it as utf-8"),
        ] {
            let problem = check(refused).unwrap_err();
            assert_eq!(problem.status, 415);
            assert!(problem.message.contains(part), "{refused}: {problem}");
        }
    }

    #[test]
    fn what_a_browser_sends_without_asking_is_accepted_from_no_foreign_page() {
        assert_eq!(check("application/x-www-form-urlencoded"), Ok(MediaType::Form));
        assert_eq!(check(""), Ok(MediaType::Unnamed));
        for (kind, body, is_foreign, accepted) in [
            (MediaType::Form, &br#"{"inputs":[]}"#[..], false, true),
            (MediaType::Form, b" \n{", false, true),
            (MediaType::Form, b"{}", true, false),
            (MediaType::Form, b"inputs=1", false, false),
            (MediaType::Form, b"", false, false),
            (MediaType::Unnamed, b"{}", false, true),
            (MediaType::Unnamed, b"\0\0", false, true),
            (MediaType::Unnamed, b"{}", true, false),
            (MediaType::Any, b"{}", true, true),
        ] {
            let status = check_page(kind, body, is_foreign).map_err(|problem| problem.status);
            assert_eq!(status, if accepted { Ok(()) } else { Err(415) }, "{kind:?} {body:?}");
        }
    }
}
