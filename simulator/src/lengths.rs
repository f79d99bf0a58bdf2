//! The lengths of the rows of requests: drawn from a distribution, or read from a file.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{error::SimulateError, trace::Random};

/// Where lengths come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Lengths {
    /// Lognormal, as those of texts, cut to the bounds.
    Lognormal {
        /// The median length.
        median: f64,
        /// The standard deviation of the logarithms.
        sigma: f64,
        /// The least and the greatest length.
        bounds: (u64, u64),
    },
    /// Each length within the bounds is as likely as any other.
    Uniform {
        /// The least and the greatest length.
        bounds: (u64, u64),
    },
    /// The lengths in this file, one in each line, in turn.
    Recorded(PathBuf),
}

impl Lengths {
    /// Returns the lengths of `count` requests; of as many as are recorded, which requests have in
    /// turn, if the lengths are recorded. Equal seeds give equal lengths.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or holds anything but lengths.
    pub fn draw(&self, count: usize, seed: u64) -> Result<Vec<u64>, SimulateError> {
        let mut random = Random::new(seed ^ 0x6c65_6e67);
        Ok(match self {
            Self::Recorded(file) => read(file)?,
            Self::Uniform { bounds } => (0..count).map(|_| random.whole(*bounds)).collect(),
            &Self::Lognormal { median, sigma, bounds } => {
                let mut length = || {
                    let length = median * (sigma * random.normal()).exp();
                    #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
                    #[expect(clippy::cast_sign_loss, reason = "the median is positive")]
                    let whole = length.round() as u64;
                    whole.clamp(bounds.0, bounds.1)
                };
                (0..count).map(|_| length()).collect()
            }
        })
    }
}

fn read(file: &Path) -> Result<Vec<u64>, SimulateError> {
    let text = fs::read_to_string(file)
        .map_err(|error| SimulateError::Read { file: file.to_owned(), error })?;
    parse(&text).map_err(|line| SimulateError::Length { file: file.to_owned(), line })
}

/// Parses the text of a file of lengths. The error is the number of the malformed line.
fn parse(text: &str) -> Result<Vec<u64>, usize> {
    let lines = (1_usize..).zip(text.lines());
    let lines = lines.map(|(line, text)| (line, text.split('#').next().unwrap_or_default().trim()));
    let lengths = lines.filter(|(_, text)| !text.is_empty()).map(|(line, text)| {
        let length = text.parse().ok().filter(|length| (1..=MOST).contains(length));
        length.ok_or(line)
    });
    let lengths = lengths.collect::<Result<Vec<u64>, _>>()?;
    if lengths.is_empty() { Err(1) } else { Ok(lengths) }
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((kind @ ("lognormal" | "uniform"), numbers)) = text.split_once(':') else {
            return Ok(Self::Recorded(text.into()));
        };
        let parsed = match (kind, numbers.split(',').collect::<Vec<_>>().as_slice()) {
            ("lognormal", [median, sigma, range]) => lognormal(median, sigma, range),
            ("uniform", [range]) => bounds(range).map(|bounds| Self::Uniform { bounds }),
            _ => None,
        };
        parsed.ok_or_else(|| {
            "expected lognormal:MEDIAN,SIGMA,LEAST-MOST, uniform:LEAST-MOST, or a file".to_owned()
        })
    }
}

fn lognormal(median: &str, sigma: &str, range: &str) -> Option<Lengths> {
    let number = |text: &str| text.trim().parse().ok().filter(|number: &f64| number.is_finite());
    let (median, sigma) = (number(median)?, number(sigma)?);
    let bounds = bounds(range)?;
    (median > 0.0 && sigma >= 0.0).then_some(Lengths::Lognormal { median, sigma, bounds })
}

fn bounds(text: &str) -> Option<(u64, u64)> {
    let (least, most) = text.split_once('-')?;
    let (least, most) = (least.trim().parse().ok()?, most.trim().parse().ok()?);
    (0 < least && least <= most && most <= MOST).then_some((least, most))
}

/// Longer rows are a mistake.
const MOST: u64 = 1 << 32;

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lognormal { median, sigma, bounds: (least, most) } => {
                write!(f, "lognormal, median {median}, σ {sigma}, {least} to {most}")
            }
            Self::Uniform { bounds: (least, most) } => write!(f, "uniform, {least} to {most}"),
            Self::Recorded(file) => write!(f, "recorded in {}", file.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_their_distribution() {
        let draw = |text: &str| {
            let mut lengths = text.parse::<Lengths>().unwrap().draw(10_001, 3).unwrap();
            lengths.sort_unstable();
            (lengths[0], lengths[5000], lengths[10_000])
        };
        let (least, median, most) = draw("lognormal:55,0.9,3-512");
        assert!(least < 10 && (52..=58).contains(&median) && most == 512, "{least} {median}");
        let (least, median, most) = draw("uniform:8-128");
        assert!(least == 8 && (64..=72).contains(&median) && most == 128, "{median}");
        assert_eq!(draw("lognormal:16,0,1-512"), (16, 16, 16));
    }

    #[test]
    fn anything_else_is_a_file_and_malformed_distributions_are_errors() {
        assert_eq!("lengths.txt".parse(), Ok(Lengths::Recorded("lengths.txt".into())));
        for wrong in [
            "uniform:",
            "uniform:0-8",
            "uniform:9-8",
            "lognormal:55,0.9",
            "lognormal:0,1,1-9",
            "lognormal:inf,1,1-9",
            "uniform:1-99999999999999",
        ] {
            assert!(wrong.parse::<Lengths>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn recorded_lengths_are_read_and_a_malformed_line_is_named() {
        assert_eq!(parse("# tokens\n12\n\n7 # short\n").unwrap(), [12, 7]);
        for (text, line) in [("3\n0\n", 2), ("x", 1), ("# none\n", 1), ("1\n99999999999999", 2)] {
            assert_eq!(parse(text).unwrap_err(), line, "{text}");
        }
    }
}
