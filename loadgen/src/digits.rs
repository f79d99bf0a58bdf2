//! Load on the model `digits_wide`: handwritten digits with known answers.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde_json::json;

use crate::{
    HttpAnswer, LoadError, Prepared, Workload,
    infer::{Call, Encoding, Input, outputs},
};

/// Pixels per image: 8 × 8.
pub const PIXELS: usize = 64;
/// The digits 0 to 9.
pub const CLASSES: usize = 10;
/// Largest deviation from an expected probability: well above the effect of the order of
/// floating-point sums (about 1e-6), well below the distance between any two digits of the test
/// data (1e-4).
const TOLERANCE: f32 = 5e-5;

/// A handwritten digit of the test data, not used in training.
#[derive(Clone, Debug, PartialEq)]
pub struct Digit {
    /// The written digit, 0 to 9.
    pub label: usize,
    /// Grey values from 0 to 16, row by row.
    pub pixels: [f32; PIXELS],
    /// The expected output of the model: a probability per class.
    pub expected: [f32; CLASSES],
}

/// Reads a file written by `models/digits_wide.py`: a header line, then one digit per line with
/// label, pixels and expected probabilities.
pub fn read(file: &Path) -> Result<Vec<Digit>, LoadError> {
    let wrong = |reason: String| LoadError::Data { file: file.display().to_string(), reason };
    let text = fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let digits: Option<Vec<Digit>> = text.lines().skip(1).map(parse).collect();
    digits.filter(|digits| !digits.is_empty()).ok_or_else(|| {
        wrong("expected a label, 64 pixels and 10 probabilities per line".to_owned())
    })
}

fn parse(line: &str) -> Option<Digit> {
    let (label, numbers) = line.split_once(',')?;
    let numbers: Vec<f32> =
        numbers.split(',').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let (pixels, expected) = numbers.split_at_checked(PIXELS)?;
    let label = label.parse().ok().filter(|label| *label < CLASSES)?;
    Some(Digit { label, pixels: pixels.try_into().ok()?, expected: expected.try_into().ok()? })
}

/// The most probable class; `None` for an empty slice.
pub fn most_probable(probabilities: &[f32]) -> Option<usize> {
    let (class, _) = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    Some(class)
}

/// Sends one digit per request, cycling through the test data. An answer is right if all
/// probabilities are the expected ones; no two digits have the same answer within the tolerance.
pub struct Digits {
    samples: Arc<[Digit]>,
    requests: Vec<Prepared>,
    asked: AtomicU64,
    recognised: AtomicU64,
}

impl Digits {
    /// Load on `model`. At least one digit is needed.
    pub fn new(model: &str, digits: Arc<[Digit]>, encoding: Encoding) -> Result<Self, LoadError> {
        if digits.is_empty() {
            return Err(LoadError::Plan("no digits to send".to_owned()));
        }
        let shape = vec![1, PIXELS as u64];
        let input = Input { name: "pixels".to_owned(), datatype: "FP32".to_owned(), shape };
        let call = Call::new(model, vec![input])?;
        let requests = digits.iter().map(|digit| match encoding {
            Encoding::Binary => call.binary(&[&digit.pixels.map(f32::to_le_bytes).concat()]),
            Encoding::Grpc => call.grpc(&[&digit.pixels.map(f32::to_le_bytes).concat()]),
            Encoding::Json => call.json([json!(&digit.pixels[..])]),
        });
        let requests = requests.collect();
        let (asked, recognised) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { samples: digits, requests, asked, recognised })
    }

    /// The digit in the request with this number.
    pub fn digit(&self, index: u64) -> &Digit {
        &self.samples[self.position(index)]
    }

    /// The probabilities in an answer.
    pub fn probabilities(answer: &HttpAnswer) -> Result<Vec<f32>, String> {
        let outputs = outputs(answer)?;
        let output = outputs.iter().find(|output| output.name == "probabilities");
        output.ok_or("no output \"probabilities\"")?.f32s()
    }

    /// The share of answers whose most probable class is the label: a measure of the model, not of
    /// the server. `None` before the first answer.
    pub fn accuracy(&self) -> Option<f64> {
        let (asked, recognised) = (self.asked.load(Relaxed), self.recognised.load(Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "a count of answers is far below 2^52")]
        (asked > 0).then(|| recognised as f64 / asked as f64)
    }

    fn position(&self, index: u64) -> usize {
        usize::try_from(index % self.samples.len() as u64).unwrap_or_default()
    }
}

impl Workload for Digits {
    fn request(&self, index: u64) -> Prepared {
        self.requests[self.position(index)].clone()
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        let got = Self::probabilities(answer)?;
        let digit = self.digit(index);
        self.asked.fetch_add(1, Relaxed);
        let recognised = most_probable(&got) == Some(digit.label);
        self.recognised.fetch_add(recognised.into(), Relaxed);

        let near = |(got, expected): (&f32, &f32)| (got - expected).abs() <= TOLERANCE;
        if got.len() == CLASSES && got.iter().zip(&digit.expected).all(near) {
            return Ok(());
        }
        Err(format!("expected {:?}, got {got:?}", digit.expected))
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    fn line(label: u32, probability: &str) -> String {
        let pixels = ["7"; PIXELS].join(",");
        let probabilities = [probability; CLASSES].join(",");
        format!("{label},{pixels},{probabilities}")
    }

    fn digit(label: usize, probability: f32) -> Digit {
        Digit { label, pixels: [7.0; PIXELS], expected: [probability; CLASSES] }
    }

    fn answer(probabilities: &[f32]) -> HttpAnswer {
        let data = json!({ "name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": probabilities });
        let body = json!({ "outputs": [data] }).to_string();
        HttpAnswer { headers: HeaderMap::new(), body: body.into() }
    }

    #[test]
    fn digits_are_read_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("digits.csv");
        fs::write(&file, format!("label,...\n{}\n{}\n", line(3, "0.1"), line(9, "0.25"))).unwrap();
        assert_eq!(read(&file).unwrap(), [digit(3, 0.1), digit(9, 0.25)]);

        for wrong in [line(10, "0.1"), line(3, "x"), "3".to_owned(), String::new()] {
            fs::write(&file, format!("label,...\n{wrong}")).unwrap();
            assert!(read(&file).is_err(), "{wrong:?}");
        }
        assert!(read(&folder.path().join("none.csv")).is_err());
    }

    #[test]
    fn the_answer_to_another_digit_is_wrong_even_with_the_same_class() {
        let mut one = digit(9, 0.0);
        one.expected[9] = 0.9;
        let mut other = one.clone();
        other.expected[9] = 0.9002;
        let load =
            Digits::new("digits_wide", Arc::new([one.clone(), other.clone()]), Encoding::Binary);
        let load = load.unwrap();
        assert_eq!(load.check(0, &answer(&one.expected)), Ok(()));
        assert_eq!(load.check(3, &answer(&other.expected)), Ok(()));
        assert!(load.check(2, &answer(&other.expected)).is_err());
        assert!(load.check(0, &answer(&one.expected[..9])).is_err());
        assert!(load.check(0, &answer(&[])).is_err());
    }

    #[test]
    fn accuracy_is_the_share_of_recognised_labels() {
        let mut unlucky = digit(4, 0.0);
        unlucky.expected[9] = 1.0;
        let mut lucky = unlucky.clone();
        lucky.label = 9;
        let load = Digits::new("m", Arc::new([unlucky.clone(), lucky]), Encoding::Json).unwrap();
        assert_eq!(load.accuracy(), None);
        for index in 0..2 {
            load.check(index, &answer(&unlucky.expected)).unwrap();
        }
        assert_eq!(load.accuracy(), Some(0.5));
    }
}
