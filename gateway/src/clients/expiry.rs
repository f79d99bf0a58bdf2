//! The end of a credential's validity.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Expiry(pub(super) u64);

impl Expiry {
    /// Reads a time in UTC such as `2027-01-31T12:00:00Z`, or a day such as `2027-01-31`, which
    /// stands for its first moment.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let time = match text.len() {
            10 => humantime::parse_rfc3339(&format!("{text}T00:00:00Z")),
            _ => humantime::parse_rfc3339(text),
        };
        let since = time.ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self(since.as_secs()))
    }

    /// Whether the time has come.
    pub(super) fn is_past(self, now: SystemTime) -> bool {
        now >= UNIX_EPOCH + Duration::from_secs(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_utc_or_a_day() {
        let day = Expiry::parse("2027-01-31").unwrap();
        assert_eq!(day, Expiry(1_801_353_600));
        assert_eq!(Expiry::parse("2027-01-31T00:00:01Z"), Some(Expiry(day.0 + 1)));
        for wrong in
            ["", "tomorrow", "2027", "2027-02-30", "2027-01-31T00:00:00+01:00", "1960-01-01"]
        {
            assert_eq!(Expiry::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_credential_ends_at_its_expiry() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(!Expiry(10).is_past(at(9)));
        assert!(Expiry(10).is_past(at(10)));
    }
}
