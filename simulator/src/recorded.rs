//! Reads recorded loads from files.

use std::{fs, path::Path};

use crate::{
    error::SimulateError,
    trace::{ArrivalPattern, Step},
};

/// Reads a recorded load. Returns the load and its length in seconds.
///
/// Each line holds the time of a request in seconds, or `seconds,rate`: a time, and the rate from
/// this time on. Times must not decrease, and are relative to the first time. Empty lines and
/// comments (from `#` to the end of the line) are ignored.
pub(crate) fn read(file: &Path) -> Result<(ArrivalPattern, f64), SimulateError> {
    let text = fs::read_to_string(file)
        .map_err(|error| SimulateError::Read { file: file.to_owned(), error })?;
    parse(&text).map_err(|line| SimulateError::Recorded { file: file.to_owned(), line })
}

/// Parses the text of a recorded load. The error is the number of the malformed line.
fn parse(text: &str) -> Result<(ArrivalPattern, f64), usize> {
    let (mut times, mut steps, mut last) = (Vec::new(), Vec::<Step>::new(), 0.0);
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let (at, rate) = match text.split_once(',') {
            None => (text, None),
            Some((at, rate)) => (at, Some(number(rate).ok_or(line)?)),
        };
        let at = number(at).filter(|&at| at >= last).ok_or(line)?;
        last = at;
        match rate {
            None if steps.is_empty() => times.push(at),
            Some(rate) if times.is_empty() => steps.push(Step { from: at, rate }),
            _ => return Err(line),
        }
    }
    if steps.is_empty() {
        let first = times.first().copied().unwrap_or_default();
        for at in &mut times {
            *at -= first;
        }
        // 1 ms is added so that the last request arrives before the end.
        let length = times.last().map_or(0.0, |last| last + 0.001);
        return Ok((ArrivalPattern::Recorded(times), length));
    }
    let first = steps[0].from;
    for step in &mut steps {
        step.from -= first;
    }
    // The last rate lasts as long as the previous rate.
    let length = match &steps[..] {
        [.., before, last] => 2.0 * last.from - before.from,
        _ => 0.0,
    };
    Ok((ArrivalPattern::Steps(steps), length))
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_count_from_the_first_line() {
        let (load, length) = parse("# a comment\n100.5\n\n101\n101 # the same\n").unwrap();
        assert_eq!(load, ArrivalPattern::Recorded(vec![0.0, 0.5, 0.5]));
        assert!((length - 0.501).abs() < 1e-9);
        let (load, length) = parse("10, 5\n20,50").unwrap();
        let steps = [Step { from: 0.0, rate: 5.0 }, Step { from: 10.0, rate: 50.0 }];
        assert_eq!((load, length), (ArrivalPattern::Steps(steps.into()), 20.0));
    }

    #[test]
    fn an_error_names_the_malformed_line() {
        for (text, line) in [("1\nx", 2), ("1\n2\n1", 3), ("1,2\n3", 2), ("2,1\n1,3", 2), ("-1", 1)]
        {
            assert_eq!(parse(text).unwrap_err(), line, "{text}");
        }
    }
}
