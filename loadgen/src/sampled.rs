//! Load on any model: inputs are random and fit the metadata; expected answers are learnt from the
//! server before the run.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use rand::{SeedableRng, rngs::StdRng};

use crate::{
    HttpAnswer, LoadError, Prepared, Target, Workload,
    infer::{Call, Encoding, Output, outputs},
    model::{Metadata, Sample, SampleShape},
};

/// Seed of the inputs: equal runs send equal inputs.
const SEED: u64 = 1;

/// Sends a fixed set of random inputs repeatedly. An answer is right if it equals, within a
/// tolerance, the answer to the same input sent alone before the run. The check detects answers
/// that are mixed up or depend on the batch, but not a bad model.
pub struct Sampled {
    requests: Vec<Prepared>,
    learnt: Vec<Learnt>,
    tolerance: f64,
}

/// The expected answer to an input.
struct Learnt {
    body: Bytes,
    outputs: Vec<Output>,
}

impl Sampled {
    /// Makes a load with `count` different inputs. Until [`learn`](Self::learn) is called, any
    /// well-formed answer is right.
    pub fn draw(
        model: &Metadata,
        encoding: Encoding,
        count: usize,
        sizes: SampleShape,
    ) -> Result<Self, LoadError> {
        if count == 0 || model.inputs.is_empty() {
            return Err(LoadError::Plan(format!(
                "{:?} has no input, or no inputs are wanted",
                model.name
            )));
        }
        let mut random = StdRng::seed_from_u64(SEED);
        let mut request = |index| {
            let inputs = model.inputs.iter().map(|input| input.draw(sizes, index, &mut random));
            let samples = inputs.collect::<Result<Vec<Sample>, _>>()?;
            let inputs = samples.iter().map(|sample| sample.input.clone()).collect();
            let call = Call::new(&model.name, inputs)?;
            let bytes = || samples.iter().map(|sample| &*sample.bytes).collect::<Vec<_>>();
            Ok(match encoding {
                Encoding::Binary => call.binary(&bytes()),
                Encoding::Grpc => call.grpc(&bytes()),
                Encoding::Json => call.json(samples.into_iter().map(|sample| sample.json)),
            })
        };
        let requests = (0..count).map(&mut request).collect::<Result<_, LoadError>>()?;
        Ok(Self::of(requests))
    }

    /// A load of these requests. Until [`learn`](Self::learn) is called, any well-formed answer is
    /// right.
    pub fn of(requests: Vec<Prepared>) -> Self {
        Self { requests, learnt: Vec::new(), tolerance: 0.0 }
    }

    /// Sends the inputs one after the other, and keeps the answers. Numbers of later answers may
    /// differ by at most `tolerance` times the largest number of the output.
    ///
    /// Returns the number of inputs whose answer equals another input's answer within the
    /// tolerance. A mix-up of two such inputs would not be detected.
    pub async fn learn(
        &mut self,
        target: &Target,
        patience: Duration,
        tolerance: f64,
    ) -> Result<usize, LoadError> {
        self.tolerance = tolerance;
        for request in &self.requests {
            let unanswered =
                |problem| LoadError::Unanswered { target: target.to_string(), problem };
            let (status, answer) = target.ask(request.clone(), patience).await?;
            if status != StatusCode::OK {
                let body = String::from_utf8_lossy(&answer.body);
                return Err(unanswered(format!("answered {status} to a single request: {body}")));
            }
            let outputs = outputs(&answer)
                .map_err(|error| unanswered(format!("answered without valid tensors: {error}")))?;
            self.learnt.push(Learnt { body: answer.body, outputs });
        }
        let has_twin = |(position, learnt): &(usize, &Learnt)| {
            let others = self.learnt.iter().enumerate().filter(|(other, _)| other != position);
            others.into_iter().any(|(_, other)| learnt.is_like(&other.outputs, tolerance))
        };
        Ok(self.learnt.iter().enumerate().filter(has_twin).count())
    }

    fn position(&self, index: u64) -> usize {
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
        self.requests[self.position(index)].clone()
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        let Some(learnt) = self.learnt.get(self.position(index)) else {
            return outputs(answer).map(drop);
        };
        if learnt.body == answer.body || learnt.is_like(&outputs(answer)?, self.tolerance) {
            return Ok(());
        }
        let owner = self.learnt.iter().position(|other| other.body == answer.body);
        Err(match owner {
            Some(owner) => format!("got the answer to input {owner}, not {}", self.position(index)),
            None => {
                format!("answer differs from the one that input {} got alone", self.position(index))
            }
        })
    }
}
