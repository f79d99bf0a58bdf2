//! Requests to text encoders: token ids of sentences of natural lengths.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    LoadError, Sampled,
    infer::{Call, Input},
};

/// Seed of the sentences: equal runs send equal sentences.
const SEED: u64 = 1;
/// Lengths in tokens: lognormal with this median and σ, within the bounds.
const MEDIAN: f64 = 20.0;
const SIGMA: f64 = 0.6;
const BOUNDS: (f64, f64) = (4.0, 128.0);
/// The ids of words in the vocabulary of BERT, without special tokens.
const WORDS: std::ops::Range<i64> = 2000..20_000;
const FIRST: i64 = 101;
const LAST: i64 = 102;

/// Makes a load with `count` different sentences of random words, one in each request, for an encoder
/// with the inputs `input_ids` and `attention_mask`. Only the outputs `wanted` are requested.
///
/// # Errors
///
/// The name of the model does not fit into a URL.
pub fn sentences(model: &str, wanted: &[&str], count: usize) -> Result<Sampled, LoadError> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut request = |_| {
        let ids = sentence(&mut random);
        let input = |name: &str| Input {
            name: name.to_owned(),
            datatype: "INT64".to_owned(),
            shape: vec![1, ids.len() as u64],
        };
        let call = Call::new(model, vec![input("input_ids"), input("attention_mask")])?;
        let (ids, mask) = (bytes(&ids), bytes(&vec![1; ids.len()]));
        Ok(call.wanting(wanted).binary(&[&ids, &mask]))
    };
    let requests = (0..count).map(&mut request).collect::<Result<_, LoadError>>()?;
    Ok(Sampled::of(requests))
}

/// The token ids of a sentence.
fn sentence(random: &mut StdRng) -> Vec<i64> {
    // The sum of twelve uniform numbers is nearly normal, with a variance of 1.
    let normal = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
    let length = (MEDIAN * (SIGMA * normal).exp()).clamp(BOUNDS.0, BOUNDS.1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "4 to 128")]
    let words = length as usize - 2;
    let words = (0..words).map(|_| random.random_range(WORDS));
    [FIRST].into_iter().chain(words).chain([LAST]).collect()
}

fn bytes(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_have_natural_lengths_and_are_the_same_in_each_run() {
        let lengths = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let mut lengths: Vec<usize> = (0..1000).map(|_| sentence(&mut random).len()).collect();
            lengths.sort_unstable();
            lengths
        };
        let of_one = lengths(1);
        assert_eq!(of_one, lengths(1));
        assert!((17..=22).contains(&of_one[500]), "median {}", of_one[500]);
        assert!(of_one[0] >= 4 && (60..=128).contains(&of_one[999]), "longest {}", of_one[999]);
        assert!(sentences("text", &["embedding"], 3).is_ok());
    }
}
