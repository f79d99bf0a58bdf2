//! Load on any model: inputs made from what the server says of it, answers learnt from the server
//! itself, one by one, before the run.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use rand::{SeedableRng, rngs::StdRng};

use crate::{
    Answer, LoadError, Prepared, Target, Workload,
    infer::{Call, Encoding, Output, outputs},
    model::{Choice, Metadata, Sample},
};

/// Seeds the inputs: equal runs send equal ones.
const SEED: u64 = 1;

/// Sends a few inputs over and over. Right is an answer like the one that the same input got when
/// nothing else was under way, so that an answer to somebody else's input is seen: this tells
/// whether answers are mixed up or depend on their batch, not whether the model is any good.
pub struct Sampled {
    requests: Vec<Prepared>,
    learnt: Vec<Learnt>,
    tolerance: f64,
}

/// The answer that an input must get.
struct Learnt {
    body: Bytes,
    outputs: Vec<Output>,
}

impl Sampled {
    /// Load with `count` different inputs. Until [`learn`](Self::learn) has run, any answer of the
    /// protocol is taken for right.
    pub fn draw(
        model: &Metadata,
        encoding: Encoding,
        count: usize,
        choice: Choice,
    ) -> Result<Self, LoadError> {
        if count == 0 || model.inputs.is_empty() {
            return Err(LoadError::Plan(format!("no input to send to {:?}", model.name)));
        }
        let mut random = StdRng::seed_from_u64(SEED);
        let mut request = || {
            let inputs = model.inputs.iter().map(|input| input.draw(choice, &mut random));
            let samples = inputs.collect::<Result<Vec<Sample>, _>>()?;
            let inputs = samples.iter().map(|sample| sample.input.clone()).collect();
            let call = Call::new(&model.name, inputs)?;
            Ok(match encoding {
                Encoding::Json => call.json(samples.into_iter().map(|sample| sample.json)),
                Encoding::Binary => {
                    call.binary(&samples.iter().map(|sample| &*sample.bytes).collect::<Vec<_>>())
                }
            })
        };
        let requests = (0..count).map(|_| request()).collect::<Result<_, LoadError>>()?;
        Ok(Self { requests, learnt: Vec::new(), tolerance: 0.0 })
    }

    /// Asks for each input once, one after the other. From now on no number of an answer may be
    /// further from the learnt one than `tolerance` times the largest of its output.
    ///
    /// Returns how many inputs have an answer so like another's that a mix-up of the two would go
    /// unseen.
    pub async fn learn(
        &mut self,
        target: &Target,
        patience: Duration,
        tolerance: f64,
    ) -> Result<usize, LoadError> {
        self.tolerance = tolerance;
        for request in &self.requests {
            let unanswered = |said| LoadError::Unanswered { target: target.to_string(), said };
            let (status, answer) = target.ask(request.clone(), patience).await?;
            if status != StatusCode::OK {
                let body = String::from_utf8_lossy(&answer.body);
                return Err(unanswered(format!("answers {status} to a request alone: {body}")));
            }
            let outputs = outputs(&answer)
                .map_err(|error| unanswered(format!("answers no tensors: {error}")))?;
            self.learnt.push(Learnt { body: answer.body, outputs });
        }
        let has_twin = |(place, learnt): &(usize, &Learnt)| {
            let others = self.learnt.iter().enumerate().filter(|(other, _)| other != place);
            others.into_iter().any(|(_, other)| learnt.is_like(&other.outputs, tolerance))
        };
        Ok(self.learnt.iter().enumerate().filter(has_twin).count())
    }

    fn place(&self, index: u64) -> usize {
        usize::try_from(index % self.requests.len() as u64).unwrap_or_default()
    }
}

impl Learnt {
    fn is_like(&self, outputs: &[Output], tolerance: f64) -> bool {
        let mut pairs = self.outputs.iter().zip(outputs);
        self.outputs.len() == outputs.len() && pairs.all(|(a, b)| a.is_alike(b, tolerance))
    }
}

impl Workload for Sampled {
    fn request(&self, index: u64) -> Prepared {
        self.requests[self.place(index)].clone()
    }

    fn check(&self, index: u64, answer: &Answer) -> Result<(), String> {
        let Some(learnt) = self.learnt.get(self.place(index)) else {
            return outputs(answer).map(drop);
        };
        if learnt.body == answer.body || learnt.is_like(&outputs(answer)?, self.tolerance) {
            return Ok(());
        }
        let owner = self.learnt.iter().position(|other| other.body == answer.body);
        Err(match owner {
            Some(owner) => format!("got the answer to input {owner}, not {}", self.place(index)),
            None => format!("got another answer than input {} had alone", self.place(index)),
        })
    }
}
