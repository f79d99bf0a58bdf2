//! Measures a text encoder alone with padding as a program without a server would do it: the sentences
//! that wait are sorted and cut into batches in several ways. Prints a line for each way: its name, the
//! CPU microseconds per sentence, and the mean rows of a batch.
//!
//! Usage: padded LIBRARY MODEL SENTENCES WAITING COUNT MOST, where LIBRARY is the library file of ONNX
//! Runtime. SENTENCES has the token ids of a sentence per line, of which the first COUNT of at most MOST
//! tokens run, WAITING at a time.
#![expect(clippy::print_stdout, reason = "the program prints numbers")]

mod common;

use anyhow::{Result, ensure};
use ort::{session::Session, value::Tensor};

use self::common::{cpu, open};

/// How waiting sentences are cut into batches.
#[derive(Clone, Copy, Debug)]
enum Way {
    OneByOne,
    /// Those of equal length together.
    EqualLengths,
    /// Padded to the next multiple of this length.
    Multiples(usize),
    /// Sorted, and cut where this share of a batch would be padding.
    Waste(f64),
}

const WAYS: [Way; 6] = [
    Way::OneByOne,
    Way::EqualLengths,
    Way::Multiples(16),
    Way::Waste(0.1),
    Way::Waste(0.2),
    Way::Waste(0.3),
];

impl Way {
    /// Whether `next`, which is at least as long as all of the batch, joins it.
    fn joins(self, batch: &[&[i64]], next: &[i64]) -> bool {
        let Some(first) = batch.first() else { return true };
        match self {
            Self::OneByOne => false,
            Self::EqualLengths => next.len() == first.len(),
            Self::Multiples(of) => next.len().div_ceil(of) == first.len().div_ceil(of),
            Self::Waste(most) => {
                let own: usize = batch.iter().map(|sentence| sentence.len()).sum();
                let padded = next.len() * (batch.len() + 1);
                as_f64(padded - own - next.len()) <= most * as_f64(padded)
            }
        }
    }

    /// The length to which a batch is padded.
    fn length(self, batch: &[&[i64]]) -> usize {
        let longest = batch.iter().map(|sentence| sentence.len()).max().unwrap_or_default();
        match self {
            Self::Multiples(of) => longest.next_multiple_of(of),
            _ => longest,
        }
    }
}

/// What the sentences took in one way.
#[derive(Default)]
struct Total {
    microseconds: f64,
    rows: usize,
    batches: usize,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, model, sentences, waiting, count, most] = &arguments[..] else {
        anyhow::bail!("usage: padded LIBRARY MODEL SENTENCES WAITING COUNT MOST");
    };
    let (waiting, count, most): (usize, usize, usize) =
        (waiting.parse()?, count.parse()?, most.parse()?);
    let sentences = read(sentences, most)?;
    ensure!(!sentences.is_empty(), "no sentence has at most {most} tokens");
    let mut session = open(library, model)?;
    let mut totals = WAYS.map(|_| Total::default());
    run(&mut session, Way::OneByOne, &[&sentences[0]])?;
    for window in sentences[..count.min(sentences.len())].chunks(waiting) {
        // The ways take turns, so that other work on the machine affects all equally.
        for (way, total) in WAYS.iter().zip(&mut totals) {
            all(&mut session, *way, window, total)?;
        }
    }
    for (way, total) in WAYS.iter().zip(totals) {
        let per_sentence = total.microseconds / as_f64(total.rows);
        let rows = as_f64(total.rows) / as_f64(total.batches);
        println!("{way:?} {per_sentence:.1} {rows:.1}");
    }
    Ok(())
}

fn read(file: &str, most: usize) -> Result<Vec<Vec<i64>>> {
    let text = std::fs::read_to_string(file)?;
    let ids = text.lines().map(|line| line.split(',').map(str::parse).collect());
    let sentences: Vec<Vec<i64>> = ids.collect::<Result<_, _>>()?;
    Ok(sentences.into_iter().filter(|sentence| sentence.len() <= most).collect())
}

/// Runs all sentences in batches.
fn all(session: &mut Session, way: Way, window: &[Vec<i64>], total: &mut Total) -> Result<()> {
    let before = cpu()?;
    let mut sorted: Vec<&[i64]> = window.iter().map(Vec::as_slice).collect();
    sorted.sort_by_key(|sentence| sentence.len());
    let mut batch: Vec<&[i64]> = Vec::new();
    for sentence in sorted {
        if !way.joins(&batch, sentence) {
            run(session, way, &batch)?;
            total.batches += 1;
            batch.clear();
        }
        batch.push(sentence);
    }
    run(session, way, &batch)?;
    total.batches += 1;
    total.rows += window.len();
    total.microseconds += cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
    Ok(())
}

fn run(session: &mut Session, way: Way, batch: &[&[i64]]) -> Result<()> {
    let length = way.length(batch);
    let (mut ids, mut mask) = (vec![0; batch.len() * length], vec![0_i64; batch.len() * length]);
    for (row, sentence) in batch.iter().enumerate() {
        let place = row * length..row * length + sentence.len();
        ids[place.clone()].copy_from_slice(sentence);
        mask[place].fill(1);
    }
    let shape = [batch.len(), length];
    let ids = Tensor::from_array((shape, ids))?;
    let mask = Tensor::from_array((shape, mask))?;
    session.run(ort::inputs!["input_ids" => ids, "attention_mask" => mask])?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
