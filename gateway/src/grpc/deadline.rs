//! The deadline that a gRPC client sends with a call.

use std::time::Duration;

use batchfleet_oip::Problem;

/// Reads the header `grpc-timeout`: up to eight digits and a unit.
pub(super) fn parse(value: &[u8]) -> Result<Duration, Problem> {
    read(value).ok_or_else(|| {
        let message = "grpc-timeout should be up to eight digits and one of the units H M S m u n";
        Problem::bad("bad_parameter", message)
    })
}

fn read(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let number = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let number: u64 = str::from_utf8(digits).ok().filter(|_| number)?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(3600 * number),
        b'M' => Duration::from_secs(60 * number),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_anything_else_is_refused() {
        for (text, time) in [
            ("2H", Duration::from_hours(2)),
            ("3M", Duration::from_mins(3)),
            ("4S", Duration::from_secs(4)),
            ("500m", Duration::from_millis(500)),
            ("6u", Duration::from_micros(6)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(time), "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S"] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().code, "bad_parameter", "{text}");
        }
    }
}
